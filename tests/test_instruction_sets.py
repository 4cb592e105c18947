"""The golden runs under every instruction set this CPU has, each in a process of its own (it compiles once)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

import llvmlite.binding as llvm  # noqa: E402

from egg.kernels.cpu.isa import INSTRUCTION_SETS  # noqa: E402

HERE = Path(__file__).parent


def has(instruction_set) -> bool:
    features = llvm.get_host_cpu_features()
    return all(features.get(name) for name in instruction_set.features)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, ids=lambda s: s.name)
def test_golden_runs_under(instruction_set):
    if not has(instruction_set):
        pytest.skip(f"this CPU has no {instruction_set.description}")
    program = """
import sys
from test_golden import PINNED, RUNS, golden
from egg.kernels import get_backend
assert get_backend("numba").description.startswith("Numba, " + sys.argv[1])
for run in RUNS:
    for threads in (1, 2, 3):
        assert golden(run, get_backend("numba", threads=threads)) == PINNED[run], (run, threads)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, instruction_set.description],
        env=os.environ | {"EGG_CPU": instruction_set.name, "PYTHONPATH": f"{HERE}:{HERE.parent}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def test_a_second_instruction_set_in_one_process_is_refused(monkeypatch):
    from egg.kernels import BackendError, get_backend

    used = get_backend("numba").description
    other = next(s for s in INSTRUCTION_SETS if has(s) and s.description not in used)
    monkeypatch.setenv("EGG_CPU", other.name)
    with pytest.raises(BackendError, match="already compiled"):
        get_backend("numba")


def test_neon_compiles_to_dot_products(monkeypatch):
    """No machine here runs it: what LLVM makes of a tile's step for AArch64 is at least the instruction meant."""
    from llvmlite import ir

    from egg.kernels.cpu import simd

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM has no AArch64 target")
    monkeypatch.setattr(simd, "instruction_set", "neon")
    module = ir.Module()
    kind = ir.FunctionType(simd.V_I32, [simd.V_I32, simd.BYTES, simd.BYTES])
    function = ir.Function(module, kind, "step")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(simd.dot4(builder, *function.args))
    machine = target.create_target_machine(cpu="apple-m1", opt=3)
    lines = machine.emit_assembly(llvm.parse_assembly(str(module))).splitlines()
    instructions = [line.split()[0] for line in lines if line.startswith("\t") and line[1] != "."]
    assert instructions.count("sdot") == 4
    assert set(instructions) <= {"sdot", "ldp", "ldr", "ret", "mov"}


def test_kernels_are_not_imported_before_their_instructions_are_chosen():
    """They would compute other numbers, silently."""
    code = "import egg.kernels.cpu.backend"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "imported by egg.kernels.get_backend('numba'), which chooses instructions" in result.stderr
