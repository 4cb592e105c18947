"""Where to compute: the three flags that all commands share."""

from collections.abc import Callable
from dataclasses import dataclass

from egg.kernels import Backend, BackendName, get_backend


@dataclass(frozen=True)
class Compute:
    """What computes: a backend, and what of the machine it uses; no result depends on it."""

    backend: BackendName = "auto"
    """What computes; changes the speed, not the result."""
    threads: int | None = None
    """Threads of a CPU backend; none: as many as the process may use, shared by a machine's ranks."""
    device: int | None = None
    """Number of the GPU of backend cupy; none: the first."""

    def make(self, notify: Callable[[str], None] | None = None) -> Backend:
        """The backend, ready to use.

        notify : is told in one line what was chosen and why, and in one before if it must be compiled
        Raises egg.kernels.BackendError, one line, for a backend that is not there.
        """
        return get_backend(self.backend, threads=self.threads, device=self.device, notify=notify)
