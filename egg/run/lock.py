"""One process at a time in a run's folder: a lock that goes with its process, however that ends."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from egg.errors import EggError, telling

LOCK = "run.lock"
PATIENCE = 0.1  # seconds: a run that ends removes the file, and a process that opens it at that moment retries
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder, which must exist; meanwhile its file ``run.lock`` names the process.

    On a file system without locks, one process at a time is up to the user.
    Raises EggError, one line with the holder's process id, if another process has it. The file that a killed
    process leaves behind blocks nobody.
    """
    import filelock  # slow to import (30 ms): --help does not need it

    path = run / LOCK
    # Shared by threads, as another thread may close a generator that holds it.
    lock = filelock.FileLock(path, mode=0o644, thread_local=False, fallback_to_soft=False)
    with telling(f"cannot write {path}"):
        try:
            lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            raise EggError(f"{run} is in use by {_holder(path)}: wait for it, or stop it first") from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    with suppress(OSError):  # of a full disk, the run itself will tell
        path.write_text(f"{os.getpid()} {socket.gethostname()}\n", encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may have gone
            path.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """The process that a lock's file names; the name may follow the lock by a moment."""
    words: list[str] = []
    with suppress(OSError):
        words = path.read_text(encoding="utf-8", errors="replace")[:300].split()
    if not words or not words[0].isdigit():
        return "another process"
    here = len(words) < 2 or words[1] == socket.gethostname()
    return f"process {words[0]}" + ("" if here else f" on {words[1][:100]}")
