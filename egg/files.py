"""Small files on disk, written whole or not at all, and never through a symbolic link."""

import errno
import io
import os
import re
import secrets
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import TextIO

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.writing")
"""Name of a file that is not whole yet: unique to its writer, and unlike a user's file."""


MAX_TEXT = 1 << 30
"""Largest file, in bytes, that is read whole because a user names it: a prompt, a text to compress."""


def open_file(path: str | Path) -> BufferedReader:
    """Open a file for reading; raises OSError, also for a pipe or a device, which could block for ever."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        folder = stat.S_ISDIR(mode)
        reason = (errno.EISDIR, os.strerror(errno.EISDIR)) if folder else (errno.EINVAL, "it is not a regular file")
        raise OSError(*reason, str(path))
    return open(descriptor, "rb")


def read_file(path: str | Path, most: int = MAX_TEXT) -> bytes:
    """The bytes of a file; raises OSError, also for one longer than ``most`` bytes, or not a regular file."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most else None  # one more: it may be growing
    if content is None or len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def open_to_append(path: Path) -> TextIO:
    """Open a file of lines, or a new one, to append to it; raises OSError, also for a link that somebody laid."""
    no_link = getattr(os, "O_NOFOLLOW", 0)
    return open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | no_link, 0o666))


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file through to the disk; raises FileExistsError if the name is taken, even by a link."""
    with open(path, "xb") as file:  # O_EXCL: no link is followed
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes, *, follow: bool = False) -> None:
    """Replace a file: at every moment either the old or the new one is in place, whole.

    follow : for a path that the user names: the target of a link is replaced, and what is not a regular file, such as
        /dev/null or a pipe, is written into. Otherwise a link is replaced, as a file is
    Raises OSError, which leaves the old file unchanged.
    """
    if follow:
        if path.exists() and not path.is_file():
            with open(path, "wb") as stream:
                stream.write(content)
            return
        path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.writing")
    try:
        write_synced(temporary, content)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left in a folder; only for a folder with a single writer."""
    for path in folder.iterdir():
        if UNFINISHED.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Write a folder's names through to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_figure(figure, path: Path, *, follow: bool = False) -> None:
    """Write a matplotlib figure in the format of its extension, or PNG, whole or not at all.

    follow : as for ``replace_file``
    Raises OSError; ValueError for a format that matplotlib does not have.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # matplotlib would parse a name with dollar signs as a formula
        text.set_parse_math(False)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:] or "png")
    replace_file(path, content.getvalue(), follow=follow)


def shown(text: object, most: int = 500) -> str:
    """A text from a file, an argument or another library as one line that any terminal and file can show.

    Control characters and line breaks become spaces, what is not UTF-8 becomes the replacement character; a text of
    more than ``most`` characters loses its middle.
    """
    line = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"
