"""The audit of compiled code: it passes, it can fail, and it looks at all there is."""

import json
import subprocess
import sys

import numpy as np
import pytest

from egg.kernels import BackendError, audit, get_backend
from egg.kernels.audit import CONTROL, DOT, FLOATING, MEMORY, SCALAR, VECTOR, Code, classify

numba = pytest.importorskip("numba")
pytest.importorskip("capstone")


@pytest.fixture(scope="module")
def catalog():
    backend = get_backend("numba", threads=1)
    from egg.kernels.cpu import catalog

    catalog.compile_all(backend)
    catalog.backend = backend
    return catalog


def halve(x):
    """Halves, in floating point: what the audit is there to find."""
    for i in range(len(x)):
        x[i] = np.int64(x[i] * 0.37)


def measure(x):
    """Arithmetic in a function of a library."""
    for i in range(len(x)):
        x[i] = np.int64(np.sin(x[i]))


def add(x):
    """Integers alone."""
    for i in range(len(x)):
        x[i] += 3


def compiled(catalog, function, **options):
    """A kernel made of a function for an array of int64, which has run."""
    dispatcher = numba.njit(nogil=True, **options)(function)
    x = np.arange(8)
    dispatcher(x)
    return catalog.Kernel(f"test.{function.__name__}", "forward", "", (), dispatcher)


def test_the_cpu_backend_is_integer_only(egg, catalog):
    status, out, err = egg("inspect", "kernels", "--audit", "--backend", "numba")
    assert status == 0, out
    last = out.splitlines()[-1]
    assert last.startswith("integer only: ") and "0 of them floating-point" in last
    for step in ("forward", "perturbation", "score", "credit", "vote", "update"):
        assert f"\n {step} " in out or f"\n{step} " in out
    result = json.loads(egg("inspect", "kernels", "--audit", "--json", "--backend", "numba")[1])
    assert result["passed"] and not result["findings"] and result["instructions"]["float"] == 0
    assert result["instructions"]["vector"] > 100
    uses_dots = "VNNI" in catalog.backend.description or "NEON" in catalog.backend.description
    assert (result["instructions"]["dot"] > 10) == uses_dots
    paths = {row["path"] for row in result["functions"]}
    assert paths >= {"forward", "perturbation", "score", "credit", "vote", "update"}
    counted = sum(sum(row[k] for k in result["instructions"]) for row in result["functions"])
    assert counted == sum(result["instructions"].values()) > 10_000


def test_no_compiled_kernel_is_left_out(catalog):
    """Whatever Numba compiled for the backend's calls is known: audited, or inside what is."""
    known = {id(kernel.dispatcher) for kernel in catalog.kernels(catalog.backend).values()}
    found = 0
    for name, module in list(sys.modules.items()):
        if name.startswith("egg.kernels.cpu.") and name != "egg.kernels.cpu.peak":
            for value in vars(module).values():
                if isinstance(value, numba.core.dispatcher.Dispatcher) and value.overloads:
                    assert id(value) in known, value
                    found += 1
    assert found > 10


def test_everything_that_is_called_has_code_and_a_step(catalog):
    for kernel in catalog.kernels(catalog.backend).values():
        assert kernel.path != "other", f"{kernel.name}: name its step in kernels/cpu/catalog.py"
        assert kernel.purpose and kernel.signatures()
        assert any(code.sections for code in kernel.codes()), kernel.name


@pytest.mark.parametrize("cached", [False, True])
def test_a_float_multiply_is_caught(catalog, monkeypatch, tmp_path, cached):
    if cached:
        monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    result = audit.audit(compiled(catalog, halve, cache=cached).codes())
    assert not result.passed and result.total[FLOATING] >= 2
    assert {f.kernel for f in result.findings} == {"test.halve"}
    # A conversion, a multiplication, and a conversion back, whatever the CPU calls them.
    assert any("mul" in f.instruction for f in result.findings), result.findings
    assert any("cvt" in f.instruction for f in result.findings)
    assert "not integer only" in result.verdict() and "test.halve" in result.verdict()


def test_integers_are_not_caught(catalog):
    result = audit.audit(compiled(catalog, add).codes())
    assert result.passed and result.total[SCALAR] + result.total[VECTOR] > 0


def test_a_float_function_of_a_library_is_caught(catalog):
    result = audit.audit(compiled(catalog, measure).codes())
    assert any(f.instruction.startswith("calls declare double") for f in result.findings)


def test_the_command_fails_and_says_where(egg, catalog, monkeypatch):
    bad = compiled(catalog, halve)
    real = catalog.kernels
    monkeypatch.setattr(catalog, "kernels", lambda backend: real(backend) | {bad.name: bad})
    status, out, _ = egg("inspect", "kernels", "--audit", "--backend", "numba")
    assert status == 1
    lines = out.splitlines()
    assert lines[-1].startswith("not integer only: ") and lines[-1].endswith("in test.halve")
    assert any("floating point: test.halve" in line and "mul" in line for line in lines)
    status, out, _ = egg("inspect", "kernels", "--audit", "--json", "--backend", "numba")
    assert status == 1 and json.loads(out)["findings"][0]["kernel"] == "test.halve"


X86 = {
    FLOATING: """
        vmulss xmm0, xmm1, xmm2
        addsd xmm0, xmm1
        vfmadd231ps zmm0, zmm1, zmm2
        vcvtdq2pd ymm0, xmm1
        cvttsd2si rax, xmm0
        vcvtps2udq zmm0, zmm1
        vcvtsi2sd xmm0, xmm1, rax
        vcvtss2usi rax, xmm0
        tdpbf16ps tmm0, tmm1, tmm2
        vsqrtpd ymm0, ymm1
        vcmpltps k1, zmm0, zmm1
        ucomisd xmm0, xmm1
        vdivph zmm0, zmm1, zmm2
        vmaxps ymm0, ymm1, ymm2
        vrndscaleps zmm0, zmm1, 1
        vdpbf16ps zmm0, zmm1, zmm2
        haddps xmm0, xmm1
        vrcp14ss xmm0, xmm1, xmm2
        vgetexppd zmm0, zmm1
        fld qword ptr [rax]
        fmul st(0), st(1)
    """,
    DOT: """
        vpdpbusd zmm0, zmm1, zmm2
        vpdpwssd zmm0, zmm1, zmm2
        tdpbssd tmm0, tmm1, tmm2
    """,
    VECTOR: """
        vpaddd zmm0, zmm1, zmm2
        vpmaxsd ymm0, ymm1, ymm2
        vpmaddwd ymm0, ymm1, ymm2
        vpternlogd zmm0, zmm1, zmm2, 0xff
        kxnorw k0, k0, k0
        vpabsd xmm0, xmm1
        vpcmpeqd k1, zmm0, zmm1
    """,
    MEMORY: """
        vmovups zmm0, zmmword ptr [rax]
        vxorps xmm0, xmm0, xmm0
        vshufps ymm0, ymm1, ymm2, 1
        vbroadcastss zmm0, dword ptr [rax]
        vpermilps xmm0, xmm1, 1
        vpermt2d zmm0, zmm1, zmm2
        movsd xmm0, qword ptr [rax]
        movsd dword ptr [rdi], dword ptr [rsi]
        kmovd k1, eax
        vinserti32x4 zmm0, zmm1, xmm2, 1
        vinsertps xmm0, xmm1, xmm2, 1
        vextractf128 xmm0, ymm1, 1
        vextracti32x4 xmm0, zmm1, 1
        vpmovdb xmm0, zmm1
        vblendvps xmm0, xmm1, xmm2, xmm3
        vblendmps zmm0, zmm1, zmm2
        vandps ymm0, ymm1, ymm2
        vunpcklpd ymm0, ymm1, ymm2
        vgatherdps zmm0, dword ptr [rax]
        push rbp
    """,
    SCALAR: """
        add rax, qword ptr [rbx]
        imul eax, ecx
        lea rax, [rbx + rcx]
        cmovl rax, rbx
        idiv rcx
        lzcnt rax, rbx
        cmp rax, rbx
        sete al
    """,
    CONTROL: """
        jne 0x10
        call 0x10
        ret
        vzeroupper
        nop dword ptr [rax]
    """,
}


@pytest.mark.parametrize("kind", X86)
def test_classes_of_x86(kind):
    for line in X86[kind].strip().splitlines():
        mnemonic, _, operands = line.strip().partition(" ")
        assert classify(mnemonic, operands) == kind, line
    assert classify("lock inc", "qword ptr [rax]") == SCALAR
    assert classify("rep movsb", "byte ptr [rdi], byte ptr [rsi]") == MEMORY


@pytest.mark.parametrize(
    ("mnemonic", "operands", "kind"),
    [
        ("fmul", "v0.4s, v1.4s, v2.4s", FLOATING),
        ("scvtf", "d0, x1", FLOATING),
        ("fcvtzs", "x0, d0", FLOATING),
        ("fcmp", "s0, s1", FLOATING),
        ("fmadd", "d0, d1, d2, d3", FLOATING),
        ("sdot", "v0.4s, v1.16b, v2.16b", DOT),
        ("add", "v0.4s, v1.4s, v2.4s", VECTOR),
        ("add", "x0, x1, x2", SCALAR),
        ("ldp", "q0, q1, [x0]", MEMORY),
        ("fmov", "s0, w1", MEMORY),
        ("b.ne", "#0x10", CONTROL),
        ("madd", "x0, x1, x2, x3", SCALAR),
    ],
)
def test_classes_of_aarch64(mnemonic, operands, kind):
    assert classify(mnemonic, operands, "aarch64") == kind


def test_bytes_that_are_no_instruction_count_against_the_code():
    code = Code("k", "x86_64", (b"\x90\x06\xc3",), ())  # 06 is no instruction in 64-bit mode
    result = audit.audit([code])
    assert [(f.offset, f.instruction) for f in result.findings] == [(1, "(not decoded) 06")]
    assert result.total[CONTROL] == 2


def test_nothing_compiled_is_not_a_pass():
    assert not audit.audit([]).passed


def test_functions_of_an_object_own_what_is_theirs():
    code = Code("k", "x86_64", (b"\xc3" * 8,), ((0, 2, 4, "a"), (0, 5, 8, "b")))
    assert [f for f, *_ in audit.instructions(code)] == ["k", "k", "a", "a", "k", "b", "b", "b"]
    with pytest.raises(BackendError, match="riscv"):
        list(audit.instructions(Code("k", "riscv", (b"",), ())))
    with pytest.raises(BackendError, match="ELF"):
        audit.elf_functions(b"MZ")


def test_one_kernel_is_shown(egg, catalog):
    status, out, _ = egg("inspect", "kernels", "--source", "norm_rows")
    assert status == 0 and "def norm_rows(" in out
    status, out, _ = egg("inspect", "kernels", "--llvm", "score.score")
    assert status == 0 and "define" in out and "i32" in out
    status, out, _ = egg("inspect", "kernels", "--asm", "forward.norm_rows")
    assert status == 0 and "forward.norm_rows:" in out
    assert json.loads(egg("inspect", "kernels", "--asm", "score", "--json")[1])["name"] == "score"


def test_the_list_names_every_kernel(egg, catalog):
    status, out, _ = egg("inspect", "kernels")
    listed = json.loads(egg("inspect", "kernels", "--json")[1])["kernels"]
    assert status == 0 and len(listed) > 30
    for kernel in listed:
        assert kernel["name"] in out and kernel["purpose"] and kernel["signatures"]
        # An array without a documented shape shows question marks: give it a line in its docstring.
        assert "?" not in "".join(kernel["signatures"]), kernel["name"]
    (cast,) = (k for k in listed if k["name"] == "branches.read_and_credit")
    assert "tokens uint8 (streams, T + 1)" in cast["signatures"][0]
    assert cast["compiled_into"] == ["tasks.read_and_vote", "adapted.read_and_vote_adapted"]


def test_the_reference_has_source_alone(egg):
    status, out, _ = egg("inspect", "kernels", "--backend", "numpy", "--source", "Model.read")
    assert status == 0 and "def read(" in out
    assert "norm" in egg("inspect", "kernels", "--backend", "numpy")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--audit --backend numpy", "no machine code of its own"),
        ("--asm norm --backend numpy", "no machine code of its own"),
        ("--source nrm_rows --backend numba", "perhaps norm_rows?"),
        ("--source norm --asm norm", "one of them"),
        ("--backend tpu", "tpu"),
    ],
)
def test_what_cannot_be_shown(egg, catalog, arguments, says):
    status, out, err = egg("inspect", "kernels", *arguments.split())
    assert (status, out) == (2, "") and says in err.splitlines()[-1]


def test_a_fresh_process_reads_the_code_from_the_cache(catalog):
    """What was loaded from the cache is audited like what was just compiled."""
    code = "import sys; from egg.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "inspect", "kernels", "--audit", "--backend", "numba"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("integer only: ")
