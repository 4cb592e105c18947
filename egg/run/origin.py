"""The origin of a result: program, commit, processor."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from egg import __version__


def cpu_name() -> str:
    """The processor's name by the system, and by LLVM if that is installed."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # another system
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return name
    return f"{name} ({llvm.get_host_cpu_name()})"


def versions() -> dict[str, str]:
    """Versions of this program, of Python and of the libraries that the speed depends on."""
    found = {"egg": __version__, "Python": platform.python_version()}
    for name in ("numpy", "numba", "llvmlite", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of these sources, with a + if they have changed since; None outside a repository."""
    here = Path(__file__).parent.parent  # egg/

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else it is another repository
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", "../kernels")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def made_with(backend) -> dict[str, str]:
    """The origin of a run, as its config.json records it: names -> values.

    backend : a kernels.Backend
    """
    source = commit()
    return {
        "egg": __version__,
        **({"commit": source} if source else {}),
        "cpu": cpu_name(),
        "backend": f"{backend.name}: {backend.description}",
    }
