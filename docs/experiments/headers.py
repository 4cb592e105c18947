"""The C headers of the running Python, as a text to adapt to: FOLDER/train.jsonl and FOLDER/validation.jsonl.

python docs/experiments/headers.py FOLDER

One document a file, in the order of their paths; every tenth goes to validation.
"""

import json
import sys
import sysconfig
from pathlib import Path

include, out = Path(sysconfig.get_path("include")), Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
files = sorted(include.rglob("*.h"))
if not files:
    sys.exit(f"{include} has no headers: install Python's development files")
for split, some in (("train", [f for i, f in enumerate(files) if i % 10]), ("validation", files[::10])):
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in some]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{split}: {len(texts)} files, {sum(len(text.encode()) for text in texts):,} bytes")
