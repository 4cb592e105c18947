"""What a file that should be text looks like instead: binary data, UTF-16, a table."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path

from egg.data.errors import DataError

HEAD = 1 << 16
"""Bytes at the beginning of a file that are looked at."""

FORCE = "or give --force-text to read its bytes as they are"

MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive or an office document",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "an SQLite database",
}
NAMES = {b"PAR1": ("Parquet", ".parquet"), b"\x1f\x8b": ("gzip", ".gz"), b"\x28\xb5\x2f\xfd": ("Zstandard", ".zst")}
"""The first bytes of files that would be read if their names said what they are."""

WHITE = b"\t\n\v\f\r\b\x1b"
CONTROLS = bytes(code for code in (*range(32), 127) if code not in WHITE)
"""Bytes that text has at most one of in RARE."""
RARE = 256

ROWS = 50
"""Lines of a table that are looked at."""


def refuse_unless_text(path: Path, head: bytes, *, jsonl: bool = False) -> None:
    """Raise DataError, which says what to do, if a file looks like something else than text.

    head : the first HEAD bytes of the file, decompressed; all of it if it is shorter
    jsonl : whether it should be JSONL, of which a line may look like CSV
    """
    what, advice = looks_like(path.name, head) or ("", "")
    if what and not (jsonl and what == "CSV"):
        expected, more = ("JSONL", "") if jsonl else ("text", f", {FORCE}")
        raise DataError(f"{path} looks like {what}, not {expected}: {advice}{more}")


def looks_like(name: str, head: bytes) -> tuple[str, str] | None:
    """Return what a file looks like, and what to do about it; None for text.

    name : the file's; head : as for `refuse_unless_text`

    >>> looks_like("notes.txt", b"a,b,c\\n1,2,3\\n4,5,6\\n")[0]
    'CSV'
    """
    leave = "leave it out, for example with a pattern such as 'texts/**/*.txt'"
    name = name.lower().removesuffix(".gz").removesuffix(".zst")
    for magic, (what, suffix) in NAMES.items():
        if head.startswith(magic):
            return what, f"let its name end in {suffix}"
    if encoding := _encoding(head):
        return encoding, f"convert it, for example with iconv -f {encoding} -t UTF-8"
    for magic, what in MAGIC.items():
        if head.startswith(magic):
            return what, leave
    if (len(head) - len(head.translate(None, CONTROLS))) * RARE > len(head):
        return "binary data", leave
    if _is_json_array(head):
        return "a JSON array", "write one object a line as JSONL, for example with jq -c '.[]'"
    if name.endswith(".json") and _is_jsonl(head):
        return "JSONL", "let its name end in .jsonl"
    if name.endswith((".csv", ".tsv")) or _is_csv(head):
        return "CSV", "convert it to JSONL or Parquet, of which --data-column names a column"
    return None


def _encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the mark at the beginning, or by NULs in every other byte."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    first, second = head[::2].count(0), head[1::2].count(0)
    for many, few, encoding in ((second, first, "UTF-16LE"), (first, second, "UTF-16BE")):
        if len(head) >= 16 and 5 * many > len(head) and 50 * few < len(head):
            return encoding
    return None


def _is_json_array(head: bytes) -> bool:
    """Whether text begins with an array whose first element is an object or a text."""
    text = head.decode(errors="replace").lstrip("\ufeff \t\r\n")
    if not text.startswith("[") or text[1:].lstrip()[:1] not in ("{", '"'):
        return False
    rest = text[1:].lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(rest)
    except (ValueError, RecursionError):
        return len(head) >= HEAD and rest[0] == "{"  # its first object goes on
    return rest[end:].lstrip()[:1] in (",", "]", "")


def _is_jsonl(head: bytes) -> bool:
    """Whether the first two lines are objects."""
    lines = [line for line in head.splitlines()[: -1 if len(head) >= HEAD else None] if line.strip()][:2]
    try:
        return len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def _is_csv(head: bytes) -> bool:
    """Whether the first lines have the same number of fields, under names of columns."""
    lines = head.decode(errors="replace").splitlines()
    lines = lines[:-1] if len(head) >= HEAD else lines
    for delimiter in ",;\t":
        try:
            rows = [row for row in islice(csv.reader(lines, delimiter=delimiter), ROWS) if row]
        except csv.Error:
            continue
        names = [name.strip() for name in rows[0]] if rows else []
        width = len(names)
        tidy = len(set(names)) == width and all(0 < len(name) <= 40 and name[-1] not in ".!?:" for name in names)
        if width > 1 and tidy and len(rows) >= (3 if width > 2 else 10) and all(len(row) == width for row in rows):
            return True
    return False
