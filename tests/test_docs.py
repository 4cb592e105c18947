"""The pages: the tutorial and the notebook do what they say, the site is whole and fetches nothing from elsewhere."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL, TEXTS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
START = "import sys; from egg.cli.start import main; sys.exit(main())"


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """A page's text at a size for tests: each passage must be in it once."""
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("bash")), reason="no bash, or no C compiler called cc")
def test_the_tutorial(tmp_path):
    """All its commands, in order; its program completes a text as ``egg sample`` does."""
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", page)
    programs = [text for kind, text in blocks if kind == "c"]
    commands = [text for kind, text in blocks if kind == "sh"]
    assert len(programs) == 1 and len(commands) == 8
    (tmp_path / "complete.c").write_text(programs[0])
    script = replaced(
        "".join(f"{text}echo ---\n" for text in commands),
        ("python -c \"from pydoc_data.topics import topics; print(*topics.values(), sep='\\n')\" > topics.txt\n", ""),
        ("--size M --tokens 4M --eval-every 1000", " ".join([*SMALL, "--tokens 2K"])),
        ("head -c 20000", "head -c 1000"),
    )
    (tmp_path / "topics.txt").write_text("\n".join(TEXTS * 4), encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/egg").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{START}" "$@"\n')
    (tmp_path / "bin/egg").chmod(0o755)
    paths = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=os.environ | paths, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    _, _, evaluated, _, _, exported, completed, sampled, rest = done.stdout.split(b"---\n")
    assert b"this model" in evaluated and rest == b""
    in_c, in_python = re.findall(rb"(?m)^(?:  bits per byte +)?(\d\.\d{4,6})", exported)
    assert abs(float(in_c) - float(in_python)) < 6e-5  # which egg eval rounds to four digits
    assert completed.startswith(b'The "for" statement') and len(completed) > 30
    assert completed.decode(errors="replace").rstrip("\n") == sampled.decode().rstrip("\n")
    assert b"<html" in (tmp_path / "trace.html").read_bytes()


def test_the_notebook(tmp_path, monkeypatch, capsys):
    """Its cells, in order, as plain Python."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    notebook = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)  # figures would grow old
    source = replaced(
        "\n".join("".join(cell["source"]) for cell in cells),
        (
            'size="XS", tokens="500K", eval_every=100',
            'hidden_size=16, num_layers=1, steps=4, eval_every=2, backend="numpy"',
        ),
        ("egg.load(training.folder)", 'egg.load(training.folder, "numpy")'),
    )
    names = {}
    exec(source, names)
    assert [tokens for tokens, _ in names["measured"]] == [1024, 2048]
    assert len(names["curve"]) == 4 and names["states"].shape == (len(names["sentence"]), 16)
    assert "int8 weights" in capsys.readouterr().out


def test_the_readme_s_sample_is_the_model_s(egg):
    """What the first screen shows is what its command writes."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command, shown), *others = re.findall(
        r"(?m)^    \$ egg (sample pretrained .*)\n((?: {4}.*\n|\n(?= {4}))+)", readme
    )
    status, out, err = egg(*shlex.split(command), "--backend", "numpy")
    assert status == 0 and not others, err
    assert [line.rstrip() for line in out.rstrip().splitlines()] == [line[4:] for line in shown.splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, as ``mkdocs build --strict`` makes it: a link that leads nowhere ends it."""
    pytest.importorskip("mkdocs", reason="pip install 'egg-lm[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page(site):
    pages = {page.stem for page in DOCS.glob("*.md")} - {"README"}
    assert pages <= {path.parent.name for path in site.glob("*/index.html")}
    home = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{page}/"' in home for page in pages)  # in the navigation


def test_the_site_fetches_nothing_from_elsewhere(site):
    fetched = []
    for path in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*>", path.read_text(encoding="utf-8"))
        fetched += re.findall(r'(?:src|href)="((?:https?:)?//[^"]*)', "".join(tags))
    for path in site.rglob("*.css"):
        fetched += re.findall(r"""(?:url\(|@import )["']?((?:https?:)?//[^"')]*)""", path.read_text(encoding="utf-8"))
    assert not fetched


def test_the_reference_says_what_the_docstrings_say(site):
    page = re.sub(r"<[^>]+>", "", (site / "api/index.html").read_text(encoding="utf-8"))
    for name in ("egg.train", "egg.load", "egg.Network", "egg.EggError", "egg.kernels.Backend"):
        assert re.search(rf"(?m)^ *{re.escape(name)}$", page), name
    assert "int8, row t after byte t, in sixteenths of a bit" in page
    assert (
        "&gt;&gt;&gt; network.logits(" in page and " : " not in re.findall(r"(?s)egg\.load\n.*?egg\.Network\n", page)[0]
    )


def test_the_list_of_pages_is_complete():
    listed = re.findall(r"(?m)^\| \[(\S+)\]", (DOCS / "README.md").read_text(encoding="utf-8"))
    found = {path.name for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb")} - {"README.md"}
    assert len(listed) == len(set(listed)) and set(listed) == found
