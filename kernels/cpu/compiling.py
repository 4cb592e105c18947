"""What Numba compiles, kernel by kernel, for whoever waits for it."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FunctionType

from numba.core import event
from numba.core.dispatcher import Dispatcher

from egg.kernels.cpu import backend as module
from egg.kernels.cpu import team

KERNELS = "egg.kernels.cpu."
OPTIONAL = ("noise", "gaussian_votes")  # modules of what few calls need, see ``watching``


class _Listener(event.Listener):
    """Calls a function with each dispatcher that was compiled."""

    def __init__(self, compiled: Callable[[Dispatcher], None]):
        self._compiled = compiled

    def on_start(self, event) -> None:
        """Wait for the end."""

    def on_end(self, event) -> None:
        """Tell what was compiled."""
        self._compiled(event.data["dispatcher"])


@contextmanager
def watching(
    calls: Collection[str], without: Collection[str], done: Callable[[int, int], None], also: Collection[str] = ()
) -> Iterator[None]:
    """Meanwhile ``done`` is called with the number of kernels compiled so far, and of those that some calls need.

    calls : names of methods of ``NumbaBackend``
    without : modules of kernels that these calls do not reach this time, such as ``adapters`` without an adapter
    also : modules that they do reach, of OPTIONAL: ``noise`` for directions of rank 4, 16 or Gaussian ones, and
        ``gaussian_votes`` for the votes of these

    What the cache holds is not compiled again: then ``done`` is not called.
    """
    needed, compiled = set(), set()

    def count(dispatcher: Dispatcher) -> None:
        if not needed:
            needed.update(needed_kernels(calls, without, also))
        name = _name(dispatcher)
        if name in needed and name not in compiled:
            compiled.add(name)
            done(len(compiled), len(needed))

    with event.install_listener("numba:compile", _Listener(count)):
        yield


def needed_kernels(calls: Collection[str], without: Collection[str], also: Collection[str] = ()) -> set[str]:
    """The names of all kernels that calls of the backend lead to, module.function; arguments as for ``watching``."""
    from egg.kernels.cpu.catalog import referred  # with much that only inspection needs

    methods, without = vars(module.NumbaBackend), {*without, *OPTIONAL} - {*also}
    waiting: list = [*(methods[name] for name in calls), *referred(team.Team, vars(team))]
    known, found = set(), set()
    while waiting:
        one = waiting.pop()
        if one in known:
            continue
        known.add(one)
        if isinstance(one, FunctionType):  # a method, with the methods it calls
            code, names = one.__code__, vars(module)
            waiting += [methods[n] for n in code.co_names if isinstance(methods.get(n), FunctionType)]
        elif one.py_func.__module__.removeprefix(KERNELS) in without:
            continue
        else:
            found.add(_name(one))
            code, names = one.py_func.__code__, one.py_func.__globals__
        waiting += referred(code, names)
    return found


def _name(dispatcher: Dispatcher) -> str:
    return f"{dispatcher.py_func.__module__.removeprefix(KERNELS)}.{dispatcher.py_func.__name__}"
