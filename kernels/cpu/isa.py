"""Which instructions compute the dot products: chosen once, at run time, and printed."""

import os
from dataclasses import dataclass

from egg.kernels.layout import BackendError


@dataclass(frozen=True)
class InstructionSet:
    """One way to multiply and add; the results are the same."""

    name: str
    description: str
    features: tuple[str, ...]
    """What the CPU must have, in LLVM's names."""
    cpu: str | None = None
    """The CPU that LLVM compiles for when this set is forced; none: the one at hand."""


INSTRUCTION_SETS = (
    InstructionSet("avx512vnni", "AVX-512 VNNI", ("avx512f", "avx512bw", "avx512vl", "avx512vnni")),
    InstructionSet("neon", "NEON dot products", ("neon", "dotprod")),
    InstructionSet("avx2", "AVX2", ("avx2", "bmi2", "fma"), "x86-64-v3"),
    InstructionSet("plain", "plain integer vectors", ()),
)


def detect() -> InstructionSet:
    """The best instruction set of this CPU, or the one that the environment variable EGG_CPU forces.

    Raises BackendError if EGG_CPU names one that is unknown or that this CPU lacks.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    available = [s for s in INSTRUCTION_SETS if all(features.get(f) for f in s.features)]
    forced = os.environ.get("EGG_CPU")
    if not forced:
        return available[0]
    for candidate in available:
        if candidate.name == forced:
            return candidate
    raise BackendError(
        f"EGG_CPU={forced}: not an instruction set of this CPU; "
        f"it has {', '.join(s.name for s in available)} (unset EGG_CPU to choose the best)"
    )
