"""One process at a time in a run's folder: a lock that goes with its process, however that ends."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from egg.errors import EggError, telling

LOCK = "run.lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder, which must exist; its file ``run.lock`` names the process meanwhile.

    Raises EggError, one line with the holder's process id, if another process has it. The file that a killed
    process leaves holds nobody up.
    """
    path = run / LOCK
    descriptor = _acquire(path)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # the folder may have gone
                path.unlink(missing_ok=True)
            os.close(descriptor)


def _acquire(path: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # no such locks on this platform: one process at a time is up to the user
        return None
    while True:
        with telling(f"cannot write {path}"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file meanwhile: then others lock a new one.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                return descriptor
        except BlockingIOError:
            raise EggError(f"{path.parent} is in use by {_holder(descriptor)}: wait for it, or stop it first") from None
        except OSError:  # a file system without locks, or a full disk: the run itself will tell
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """The process that a lock's file names; it may have the lock for a moment before its name is there."""
    words = os.pread(descriptor, 300, 0).decode(errors="replace").split()
    os.close(descriptor)
    if not words or not words[0].isdigit():
        return "another process"
    here = len(words) < 2 or words[1] == socket.gethostname()
    return f"process {words[0]}" + ("" if here else f" on {words[1][:100]}")
