"""What pip installs: everything lies under egg, beside another project's package called kernels, and works."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from sysconfig import get_path

import pytest

from egg import __version__, load

pytestmark = pytest.mark.slow  # the kernels are compiled where they are installed; .ci/run runs this too
ROOT = Path(__file__).parent.parent


def run(*command, **options) -> subprocess.CompletedProcess:
    """Runs a command that does not see the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, **options)


def succeed(*command, **options) -> str:
    """Runs a command that must end well, and returns its standard output."""
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A new virtual environment with Hugging Face's kernels; the libraries come from the environment of the tests.

    Those are appended to the path, where .pth files do not count: an editable installation of egg is not seen.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    site = Path(get_path("purelib", "venv", {"base": folder}))
    Path(site, "outer.pth").write_text("".join(f"{get_path(kind)}\n" for kind in ("purelib", "platlib")))
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet"]
    for options in (["--ignore-installed", "--no-deps"], []):  # its own copy, then what it needs and nobody has
        done = run(*pip, *options, "kernels")
        if done.returncode:
            pytest.skip(f"kernels cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return folder, site, pip


@pytest.fixture(scope="module")
def wheel(installed, tmp_path_factory):
    """The wheel, built from a copy: the checkout keeps no build/ and no egg_lm.egg-info."""
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("egg", "kernels", "data"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    succeed(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, tree)
    (path,) = folder.iterdir()
    return path


def test_everything_lies_under_egg(wheel):
    about = f"egg_lm-{__version__}.dist-info/"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(about)}
    files = {path.relative_to(ROOT) for name in ("egg", "kernels", "data") for path in (ROOT / name).rglob("*.*")}
    files = {path if path.parts[0] == "egg" else "egg" / path for path in files if "__pycache__" not in path.parts}
    assert names == {path.as_posix() for path in files}


def test_it_works_beside_another_kernels(wheel, installed, book, tmp_path):
    folder, site, pip = installed
    python, egg = folder / "bin/python", folder / "bin/egg"
    succeed(*pip, "--ignore-installed", "--no-deps", wheel)
    code = (
        "import importlib.metadata, egg.data, egg.kernels, kernels\n"
        "print(egg.__file__, egg.data.__file__, egg.kernels.__file__, kernels.__file__, kernels.get_kernel.__name__)\n"
        "print(importlib.metadata.version('egg-lm'), egg.__version__)"
    )
    paths, versions = succeed(python, "-c", code, cwd=tmp_path).splitlines()
    ours = [str(site / package / "__init__.py") for package in ("egg", "egg/data", "egg/kernels")]
    assert paths.split() == [*ours, str(site / "kernels/__init__.py"), "get_kernel"]
    assert versions.split() == [__version__] * 2
    small = "--steps 3 --hidden-size 16 --num-layers 1 --streams 4 --seq-len 8 --out run --data"
    succeed(egg, "train", *small.split(), book, cwd=tmp_path)
    assert (tmp_path / "run/checkpoints/step-00000003/model.safetensors").exists()
    assert "score.score" in succeed(egg, "inspect", "kernels", cwd=tmp_path)
    wrote = succeed(egg, "sample", "pretrained", "--prompt", "def ", "--length", 50, cwd=tmp_path)
    (text,) = load("pretrained", "numpy").generate("def ", 50)
    assert wrote.rstrip("\n") == "def " + text.decode(errors="replace").rstrip("\n")
