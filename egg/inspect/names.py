"""The order in which kernels are listed, and the kernel that a name means."""

from egg.kernels import BackendError

ORDER = ("forward", "perturbation", "score", "credit", "vote", "update", "coding", "other")


def find_kernel(name: str, names: list[str]) -> str:
    """The kernel of a name: module.function, or the function alone.

    Raises BackendError, one line, if there is none or there are several.
    """
    found = [n for n in names if n == name] or [n for n in names if n.rpartition(".")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise BackendError(f"{name} means {', '.join(found)}: give one of these")
    import difflib

    near = difflib.get_close_matches(name, [*names, *(n.rpartition(".")[2] for n in names)], 1)
    perhaps = f", perhaps {near[0]}?" if near else ""
    raise BackendError(f"there is no kernel {name!r}{perhaps} (egg inspect kernels lists them)")
