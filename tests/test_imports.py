"""Imports run one way: train.py -> egg -> kernels; the command line and one module of training join data to egg."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("datasets", "matplotlib", "numba", "pandas", "pyarrow", "rich", "tqdm")


def imported(path: Path) -> set[str]:
    """What a file imports of the project anywhere in it: egg, egg.data, egg.kernels."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    packages = {".".join(name.split(".")[:2]) for name in names if name.split(".")[0] == "egg"}
    return {name if name in ("egg.data", "egg.kernels") else "egg" for name in packages}


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("package", ["data", "kernels"])
def test_data_and_kernels_import_nothing_else_of_ours(package):
    for path in files(package):
        assert imported(path) <= {f"egg.{package}"}, path


def test_egg_imports_data_in_the_command_line_and_one_module_of_training():
    joined = False
    for path in files("egg"):
        if path.parent.name == "cli" or path == ROOT / "egg/training/corpus.py":
            joined |= "egg.data" in imported(path)
        else:
            assert imported(path) <= {"egg", "egg.kernels"}, path
    assert joined


def test_train_imports_egg_alone():
    assert imported(ROOT / "train.py") == {"egg"}


def test_little_is_imported_before_ctrl_c_is_one_line():
    code = "import sys; began = set(sys.modules); import egg.cli.start; print(*(set(sys.modules) - began))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("egg")} == {
        "egg",
        "egg.cli",
        "egg.cli.interrupts",
        "egg.cli.start",
    }
    assert not loaded & {"typing", "contextlib", "threading", "difflib", "re"}, done.stderr


def test_importing_the_command_line_loads_no_slow_library():
    code = f"""
import importlib, sys, egg.cli.main
for module, _ in egg.cli.main.COMMANDS.values():
    importlib.import_module(module)
print([m for m in {HEAVY} if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
