"""The kernels of the CUDA backend on the screen, compiled without CuPy and without a GPU."""

import re
from collections import Counter

from egg.inspect.names import ORDER, find_kernel
from egg.kernels import Shape
from egg.kernels.audit import CLASSES, FLOATING, Audit, Finding
from egg.kernels.cuda import compiler, sass, sources

SHAPE = Shape(256, 6)  # of the model that the kernels are compiled for
PATHS = {
    "prepare": "forward",
    "prepare.draw_signs": "perturbation",
    "prepare.draw_sign_factors": "perturbation",
    "prepare.draw_gaussian_factors": "perturbation",
    "forward": "forward",
    "votes": "vote",
    "pairs": "perturbation",
    "update": "update",
    "branches": "perturbation",
    "end": "credit",
    "wire": "credit",
    "stations": "credit",
    "rows": "update",
}
"""Kernel, or file without .cu -> the step it belongs to."""


class CudaKernels:
    """The kernels of the CUDA backend, compiled for ``compiler.ARCHITECTURE`` when their code is needed."""

    legend = (
        "The forward kernels score too. vector: the integer units of threads. dot: tensor cores (IMMA) and IDP. "
        "scalar: the uniform units, once a warp. memory: loads, stores, atomics, shuffles and copies. float: "
        "floating-point arithmetic and conversions, and whatever is not known to be something else."
    )

    def __init__(self):
        self._sources = {
            f"{source.removesuffix('.cu')}.{entry}": source
            for source, entries in sources.KERNELS.items()
            for entry in entries
        }
        self._read: dict = {}

    @property
    def heading(self) -> str:
        """What they are compiled for."""
        return (
            f"CUDA kernels for {compiler.ARCHITECTURE}, hidden size {SHAPE.hidden_size}, "
            f"{SHAPE.num_layers} layer{'s' * (SHAPE.num_layers != 1)}"
        )

    def descriptions(self) -> list[dict]:
        """Name, step, purpose and signatures of each kernel, for JSON and for the list."""
        return [
            {
                "name": name,
                "path": self._path_of(name),
                "purpose": self._text(name).partition("\n")[0].lstrip("/ "),
                "signatures": [self._signature(name)],
                "compiled_into": [],
            }
            for name in sorted(self._sources, key=lambda name: ORDER.index(self._path_of(name)))
        ]

    def source(self, name: str) -> str:
        """A kernel as it is written, after its file's name."""
        name = find_kernel(name, list(self._sources))
        return f"// kernels/cuda/{self._sources[name]}\n{self._text(name)}"

    def llvm(self, name: str) -> str:
        """A kernel's PTX: NVRTC gives no LLVM code."""
        name = find_kernel(name, list(self._sources))
        entry, text = name.partition(".")[2], compiler.compiled(self._sources[name], SHAPE)[1]
        beginning, *parts = re.split(r"(?m)^(?=\s*// \.globl\b)", text)
        (own,) = (part for part in parts if re.search(rf"\.entry {entry}\(", part))
        return f"// {name}: {self._made('PTX')}\n{beginning.strip()}\n\n{own.strip()}"

    def assembly(self, name: str) -> str:
        """A kernel's machine code, disassembled, with the compiler's routines that it calls."""
        name = find_kernel(name, list(self._sources))
        entry, lines, previous = name.partition(".")[2], [f"// {name}: {self._made('SASS')}"], None
        for function, offset, mnemonic, operands in self._disassembled(name)[entry]:
            if function != previous:
                lines.append(f"{function}:")
                previous = function
            address = f"  {offset:6x}  " if offset is not None else ""
            lines.append(f"{address}{mnemonic} {operands}".rstrip() + ":" * (offset is None))
        return "\n".join(lines)

    def audit(self) -> Audit:
        """Count every instruction of every kernel."""
        result = Audit()
        for name in self._sources:
            counts = result.counts[name] = Counter()
            for function, offset, mnemonic, operands in self._disassembled(name)[name.partition(".")[2]]:
                if offset is None:
                    continue
                kind = sass.classify(mnemonic)
                counts[kind] += 1
                if kind == FLOATING:
                    where = name if function == name.partition(".")[2] else function
                    result.findings.append(Finding(name, where, offset, f"{mnemonic} {operands}".strip()))
            result.objects[name] = sum(counts.values()) * sass.INSTRUCTION_BYTES
        return result

    def audit_rows(self, result: Audit) -> list[tuple[str, str, dict]]:
        """(step, kernel, counts by class) in the order of the steps."""
        rows = [
            (self._path_of(name), name, {kind: counts[kind] for kind in CLASSES})
            for name, counts in result.counts.items()
        ]
        return sorted(rows, key=lambda row: (ORDER.index(row[0]), row[1]))

    def _path_of(self, name: str) -> str:
        return PATHS.get(name) or PATHS.get(name.partition(".")[0], "other")

    def _made(self, what: str) -> str:
        return f"{what} of the {self.heading}, by NVRTC {compiler.version()}"

    def _disassembled(self, name: str) -> dict:
        source = self._sources[name]
        if source not in self._read:
            self._read[source] = sass.disassemble(compiler.compiled(source, SHAPE)[0])
        return self._read[source]

    def _text(self, name: str) -> str:
        """A kernel with the comment above it."""
        lines = (sources.FOLDER / self._sources[name]).read_text(encoding="utf-8").split("\n")
        entry = re.compile(rf"(?:^|\s){re.escape(name.partition('.')[2])}\(")
        last = next(i for i, line in enumerate(lines) if entry.search(line) and not line.startswith("//"))
        # The launch bounds are on a line of their own.
        first = last if lines[last].startswith('extern "C"') else last - 1
        while first and lines[first - 1].startswith("//"):
            first -= 1
        return "\n".join(lines[first : lines.index("}", last) + 1])

    def _signature(self, name: str) -> str:
        head = re.search(r'extern "C" __global__ (.*?\))\s*\{', self._text(name), re.DOTALL)
        assert head, f"{name} is not a kernel"
        return " ".join(head[1].split())
