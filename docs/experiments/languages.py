"""Lines of Python, C and English, each after a line with its class: FOLDER/train.jsonl and FOLDER/validation.jsonl.

python docs/experiments/languages.py FOLDER

They come with the running Python: four packages of its standard library, its C headers, and the pages of its help. A
document is a class, and below it a line of 16 to 48 bytes without its blanks. Every fifth file or page of a class goes
to validation. Every class has equally many documents, TRAINING and HELD_OUT.
"""

import json
import random
import sys
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

PACKAGES = ("asyncio", "email", "tkinter", "xml")
SHORTEST, LONGEST = 16, 48
TRAINING, HELD_OUT = 400, 300


def read(folder: str, pattern: str) -> list[str]:
    """The texts of the files below a folder, in the order of their paths."""
    return [p.read_text(encoding="utf-8", errors="replace") for p in sorted(Path(folder).rglob(pattern))]


paths, out = sysconfig.get_paths(), Path(sys.argv[1])
texts = {
    "python": [text for name in PACKAGES for text in read(f"{paths['stdlib']}/{name}", "*.py")],
    "c": read(paths["include"], "*.h"),
    "english": [topics[key] for key in sorted(topics)],
}
if missing := [name for name, found in texts.items() if not found]:
    sys.exit(f"no files of {', '.join(missing)}: install Python's development files")
out.mkdir(parents=True, exist_ok=True)
for split, count in (("train", TRAINING), ("validation", HELD_OUT)):
    generator, documents = random.Random(0), []
    for name, found in texts.items():
        some = found[::5] if split == "validation" else [text for i, text in enumerate(found) if i % 5]
        lines = {line.strip()[:LONGEST] for text in some for line in text.splitlines()}
        documents += [
            f"{name}\n{line}" for line in generator.sample(sorted(x for x in lines if len(x) >= SHORTEST), count)
        ]
    generator.shuffle(documents)
    (out / f"{split}.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    print(f"{split}: {count} lines of each of {', '.join(texts)}, {sum(len(d.encode()) for d in documents):,} bytes")
