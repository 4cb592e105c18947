"""Completion in a shell: of every command, every flag, and the values that a flag can have."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from egg.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script for bash."""
    path = tmp_path_factory.mktemp("completion") / "egg.bash"
    with path.open("w") as file, contextlib.redirect_stdout(file):
        assert main(["completion", "bash"]) == 0
    return path


def completed(script, *words: str) -> set[str]:
    """What bash offers for the last of some words."""
    code = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*"
$(complete -p egg | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", code, "bash", str(script), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    )
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(script):
    assert completed(script, "egg", "") >= set(COMMANDS)
    assert completed(script, "egg", "tr") == {"train"}
    assert completed(script, "egg", "train", "--hid") == {"--hidden-size"}
    assert completed(script, "egg", "train", "--preset", "") == {"quickstart", "nano", "base", "paper"}
    assert completed(script, "egg", "train", "--backend", "nu") == {"numpy", "numba"}
    assert completed(script, "egg", "inspect", "") >= {"kernels", "model", "trace", "arithmetic"}
    assert completed(script, "egg", "inspect", "kernels", "--au") == {"--audit"}
    assert completed(script, "egg", "adapt", "x", "--rew") == {"--reward", "--reward-timeout"}
    assert completed(script, "egg", "adapt", "me") == {"merge"}
    assert completed(script, "egg", "adapt", "merge", "x", "--ada") == {"--adapter"}
    assert {"--split", "--json"} <= completed(script, "egg", "eval", "x", "--")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_of_the_whole_command(egg, shell):
    status, out, err = egg("completion", shell)
    assert (status, err) == (0, "")
    assert all(name in out for name in COMMANDS) and "hidden-size" in out


@pytest.mark.parametrize("arguments", [[], ["cmd"], ["bash", "more"]])
def test_what_cannot_be_completed(egg, arguments):
    status, out, err = egg("completion", *arguments)
    assert (status, out) == (2, "") and "egg completion --help" in err and err.count("\n") == 1
