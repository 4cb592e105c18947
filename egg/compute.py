"""Where to compute: the three flags that all commands share."""

from collections.abc import Callable
from dataclasses import dataclass

from egg.kernels import Backend, BackendName, get_backend


@dataclass(frozen=True)
class Compute:
    """A backend, and the part of the machine that it uses; results do not depend on them."""

    backend: BackendName = "auto"
    """What computes; changes the speed, not the result."""
    threads: int | None = None
    """Threads of a CPU backend; none: as many as the process may use, shared by a machine's ranks."""
    device: int | None = None
    """Number of the GPU of backend cupy; none: the first."""

    def make(
        self, notify: Callable[[str], None] | None = None, *, tiered: bool = False, work: int | None = None
    ) -> Backend:
        """The backend, ready to use.

        notify : called with a line about what was chosen and why, after one more if the kernels must be compiled
        tiered : backend auto begins with NumPy, for a job that may be short
        work : weights times bytes that will be read, if that is known: for little of it auto is NumPy
        Raises egg.kernels.BackendError, one line, for a backend that is not available.
        """
        options = {"threads": self.threads, "device": self.device, "notify": notify}
        return get_backend(self.backend, **options, tiered=tiered, work=work)
