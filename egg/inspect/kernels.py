"""The kernels of a backend on the screen: the list, one of them, and the audit."""

from egg.inspect.names import ORDER, find_kernel
from egg.kernels import Backend, BackendError, get_backend
from egg.kernels.audit import CLASSES, FLOATING, Audit, audit

SHORT = dict(zip(CLASSES, ("vector", "dot", "scalar", "memory", "control", "float"), strict=True))


class NumbaKernels:
    """The kernels of the CPU backend, all compiled."""

    heading = ""
    legend = (
        "vector: integer vectors. dot: VNNI or NEON dot products. memory: loads, stores, moves and shuffles, also "
        "those named after floats (vmovups, vxorps, vbroadcastss), which move bits. float: floating-point arithmetic."
    )

    def __init__(self, backend: Backend):
        from egg.kernels.cpu import catalog

        catalog.compile_all(backend)
        self.kernels = catalog.kernels(backend)
        self._path_of = catalog.path_of
        self._support = (catalog.CALLS, catalog.RUNTIME)

    def descriptions(self) -> list[dict]:
        """Name, step, purpose and signatures of each kernel, for JSON and for the list."""
        return [
            {
                "name": kernel.name,
                "path": kernel.path,
                "purpose": kernel.purpose,
                "signatures": kernel.signatures(),
                "compiled_into": list(kernel.called_by),
            }
            for kernel in self.kernels.values()
        ]

    def source(self, name: str) -> str:
        """A kernel as it is written."""
        return self._kernel(name).source()

    def llvm(self, name: str) -> str:
        """A kernel's optimised LLVM code."""
        return self._kernel(name).llvm()

    def assembly(self, name: str) -> str:
        """A kernel's machine code, disassembled, with what was not inlined."""
        from egg.kernels.audit import instructions

        lines, previous = [], None
        for code in self._kernel(name).codes():
            for function, offset, mnemonic, operands in instructions(code):
                if function != previous:
                    lines.append(f"{function}:")
                    previous = function
                lines.append(f"  {offset:6x}  {mnemonic} {operands}".rstrip())
        return "\n".join(lines)

    def audit(self) -> Audit:
        """Count every instruction of what the backend calls."""
        called = [kernel for kernel in self.kernels.values() if not kernel.called_by]
        return audit([code for kernel in called for code in kernel.codes()])

    def audit_rows(self, result: Audit) -> list[tuple[str, str, dict]]:
        """(step, function, counts by class) in the order of the steps; wrappers and runtime last."""
        rows = []
        for function, counts in result.counts.items():
            path = "around them" if function in self._support else self._path_of(function)
            rows.append((path, function, {kind: counts[kind] for kind in CLASSES}))
        return sorted(rows, key=lambda row: (ORDER.index(row[0]) if row[0] in ORDER else 99, row[1]))

    def _kernel(self, name: str):
        return self.kernels[find_kernel(name, list(self.kernels))]


class NumpyKernels:
    """The operations of the reference: they run NumPy's machine code, so only their source can be shown."""

    heading = ""

    def __init__(self, backend: Backend):
        import inspect

        from egg.kernels import reference

        self._members = {}
        for owner, prefix in (
            (reference, ""),
            (reference.Model, "Model."),
            (reference.Perturbed, "Perturbed."),
            (type(backend), "NumpyBackend."),
        ):
            for name, value in vars(owner).items():
                defined_here = getattr(value, "__module__", None) == reference.__name__
                if inspect.isfunction(value) and defined_here and not name.startswith("__"):
                    self._members[prefix + name] = value

    def descriptions(self) -> list[dict]:
        """The same of each operation."""
        import inspect

        return [
            {
                "name": name,
                "path": "reference",
                "purpose": self._purpose(name, function),
                "signatures": [str(inspect.signature(function))],
                "compiled_into": [],
            }
            for name, function in self._members.items()
        ]

    @staticmethod
    def _purpose(name: str, function) -> str:
        from egg.kernels.backend import Backend as Calls

        documented = function.__doc__ or getattr(getattr(Calls, name.rpartition(".")[2], None), "__doc__", None)
        return (documented or "").strip().partition("\n")[0]

    def source(self, name: str) -> str:
        """An operation as it is written."""
        import inspect

        return inspect.getsource(self._members[find_kernel(name, list(self._members))])

    def _refuse(self, *_):
        raise BackendError(
            "backend numpy: the reference has no machine code of its own, it runs NumPy's, which has floating point "
            "too; --source shows what it calls, --backend numba has code to audit"
        )

    llvm = assembly = audit = _refuse


def kernels_of(name: str, notify=None):
    """The kernels of a backend; those of backend cupy are compiled without CuPy and without a GPU.

    name : as ``egg.kernels.get_backend`` takes it
    notify : called with one line on what was chosen
    Raises BackendError, one line, for a backend that is not available.
    """
    if name == "cupy":
        from egg.inspect.kernels_cuda import CudaKernels

        return CudaKernels()
    backend = get_backend(name, notify=notify)
    return {"numba": NumbaKernels, "numpy": NumpyKernels}[backend.name](backend)


def list_kernels(descriptions: list[dict], heading: str, out) -> None:
    """Print the kernels: each with its purpose, what it is compiled into, and its arguments.

    heading : a line above them, or an empty text
    """
    from rich.padding import Padding
    from rich.text import Text

    if heading:
        out.print(Text(heading, style="bold"))
        out.print()
    for heading, kernels in (
        ("called by the backend, each with its own machine code", [k for k in descriptions if not k["compiled_into"]]),
        ("compiled into these", [k for k in descriptions if k["compiled_into"]]),
    ):
        if not kernels:
            continue
        out.print(Text(heading, style="bold underline"))
        for kernel in kernels:
            name = Text.assemble((kernel["name"], "bold cyan"), f"  {kernel['path']}")
            if kernel["compiled_into"]:
                name.append(f", into {', '.join(kernel['compiled_into'])}", style="dim")
            out.print(name)
            out.print(Padding(Text(kernel["purpose"]), (0, 0, 0, 4), expand=False))
            for signature in kernel["signatures"]:
                out.print(Padding(Text(signature, style="dim"), (0, 0, 0, 4), expand=False))
        out.print()


def audit_json(shown: NumbaKernels, result: Audit) -> dict:
    """The audit as JSON."""
    return ({"compiled_for": shown.heading} if shown.heading else {}) | {
        "passed": result.passed,
        "instructions": {SHORT[kind]: result.total[kind] for kind in CLASSES},
        "functions": [
            {"path": path, "function": name} | {SHORT[kind]: n for kind, n in counts.items()}
            for path, name, counts in shown.audit_rows(result)
        ],
        "machine_code_bytes": result.objects,
        "findings": [
            {"kernel": f.kernel, "function": f.function, "offset": f.offset, "instruction": f.instruction}
            for f in result.findings
        ],
        "verdict": result.verdict(),
    }


def print_audit(shown: NumbaKernels, result: Audit, out) -> None:
    """Print the table, the findings, and the verdict as the last line."""
    from rich.text import Text

    from egg.view.screen import table

    rows, styles, steps = [], [], {}
    for path, name, counts in shown.audit_rows(result):
        steps.setdefault(path, []).append((name, counts))
    for path, functions in steps.items():
        whole = {kind: sum(counts[kind] for _, counts in functions) for kind in CLASSES}
        rows.append([Text(path), *_cells(whole)])
        styles.append("bold")
        for name, counts in functions:
            rows.append([f"  {name}", *_cells(counts)])
            styles.append("bold red" if counts[FLOATING] else None)
    rows.append(["all", *_cells(result.total)])
    styles.append("bold")
    columns = ["step, function", *SHORT.values()]
    title = "Instructions by class" + (f": {shown.heading}" if shown.heading else "")
    out.print(table(title, columns, rows, styles=styles))
    out.print(shown.legend)
    for finding in result.findings[:20]:
        out.print(f"floating point: {finding}", style="red")
    if len(result.findings) > 20:
        out.print(f"and {len(result.findings) - 20:,} more", style="red")
    print(result.verdict(), file=out.file)


def _cells(counts: dict) -> list[str]:
    return [f"{counts[kind]:,}" for kind in CLASSES]
