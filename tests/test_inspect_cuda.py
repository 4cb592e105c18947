"""egg inspect kernels --backend cupy: list, source, PTX, SASS and audit, without CuPy and without a GPU."""

import json

import pytest

from egg.inspect import kernels_cuda
from egg.kernels import BackendError, Shape, cuda
from egg.kernels.audit import CONTROL, DOT, FLOATING, MEMORY, SCALAR, VECTOR
from egg.kernels.cuda import compiler, sass, sources, toolkit

TEXT = """
//--------------------- .text.halve          --------------------------
        .global         halve
halve:
.text.halve:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_1) ;
        /*0020*/                   IMAD.WIDE R2, R0, 0x4, R2 ;
.L_x_1:
        /*0030*/                   FMUL R7, R0, 0.37 ;
        .weak           $__internal_0_$__cuda_sm20_div_s64
$__internal_0_$__cuda_sm20_div_s64:
        /*0040*/                   I2F.U64.RP R6, R4 ;
"""


@pytest.fixture
def show(egg, monkeypatch):
    monkeypatch.setattr(kernels_cuda, "SHAPE", Shape(16, 1))

    def load(device=0):
        raise AssertionError("the backend was opened")

    monkeypatch.setattr(cuda, "load", load)
    return lambda *words: egg("inspect", "kernels", "--backend", "cupy", *words)


@pytest.fixture
def nvrtc():
    try:
        compiler.library()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture
def disassembler(nvrtc):
    if toolkit.program("nvdisasm", "cuobjdump") is None:
        pytest.skip("neither nvdisasm nor cuobjdump: pip install nvidia-cuda-nvdisasm")


@pytest.fixture
def floats(monkeypatch, tmp_path):
    """Sources that do what the audit is there to find, in the place of ours."""
    (tmp_path / "bad.cu").write_text(
        '// Halves.\nextern "C" __global__ void halve(int *x) {\n  x[threadIdx.x] = int(x[threadIdx.x] * 0.37f);\n}\n'
        '// Divides, through a reciprocal.\nextern "C" __global__ void divide(int *x, long long d) {\n'
        "  x[0] = x[1] / d;\n}\n// Adds integers.\n"
        'extern "C" __global__ void add(int *x) {\n  x[threadIdx.x] += 3;\n}\n'
    )
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    monkeypatch.setattr(sources, "KERNELS", {"bad.cu": ("halve", "divide", "add")})


def test_the_list_names_every_kernel(show):
    status, out, _ = show()
    listed = json.loads(show("--json")[1])
    assert status == 0 and "sm_90" in out and "hidden size 16, 1 layer" in listed["compiled_for"]
    entries = {f"{s[:-3]}.{name}" for s, names in sources.KERNELS.items() for name in names}
    assert {kernel["name"] for kernel in listed["kernels"]} == entries
    for kernel in listed["kernels"]:
        assert kernel["name"] in out and kernel["path"] != "other" and not kernel["compiled_into"]
        assert kernel["purpose"][0].isupper() and " : " not in kernel["purpose"]
        (signature,) = kernel["signatures"]
        assert f" {kernel['name'].partition('.')[2]}(" in signature and signature.endswith(")")


def test_every_kernels_source(show):
    for name, source in kernels_cuda.CudaKernels()._sources.items():
        status, out, _ = show("--source", name)
        first, *lines = out.rstrip("\n").split("\n")
        assert status == 0 and first == f"// kernels/cuda/{source}"
        text = "\n".join(lines)
        assert text in (sources.FOLDER / source).read_text()
        assert text.startswith("// ") and text.count("__global__") == 1 and text.endswith("\n}")


def test_ptx(show, nvrtc):
    status, out, _ = show("--llvm", "forward_pairs")
    assert status == 0 and "sm_90, hidden size 16, 1 layer, by NVRTC" in out.splitlines()[0]
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in out and ".target sm_90" in out
    assert out.count(".entry") == 1 and ".entry forward_pairs(" in out
    found = json.loads(show("--llvm", "votes.sum_matrices", "--json")[1])
    assert found["name"] == "votes.sum_matrices" and "mma.sync" in found["llvm"]


def test_sass(show, disassembler):
    status, out, _ = show("--asm", "forward.forward_clean")
    assert status == 0 and "forward_clean:" in out and "IMMA.16832.S8.S8" in out and "EXIT" in out


def test_the_cuda_backend_is_integer_only(show, disassembler):
    status, out, _ = show("--audit")
    assert status == 0, out
    assert out.splitlines()[-1].startswith("integer only: ") and "sm_90" in out.splitlines()[0]
    result = json.loads(show("--audit", "--json")[1])
    assert result["passed"] and result["instructions"]["float"] == 0 and result["compiled_for"]
    assert result["instructions"]["dot"] > 50 and result["instructions"]["vector"] > 1000
    assert {row["path"] for row in result["functions"]} == {"forward", "perturbation", "credit", "vote", "update"}
    assert len(result["functions"]) == sum(map(len, sources.KERNELS.values()))


def test_a_float_multiply_and_a_division_are_caught(show, floats, disassembler):
    status, out, _ = show("--audit")
    assert status == 1 and "bad.halve at +0x" in out and "FMUL" in out
    assert "in $__internal_0" in out.replace("\n", " ")
    last = out.splitlines()[-1]
    assert last.startswith("not integer only: ") and last.endswith("in bad.divide, bad.halve")
    found = json.loads(show("--audit", "--json")[1])
    assert not found["passed"] and "bad.add" not in {f["kernel"] for f in found["findings"]}


def test_text_of_a_disassembler_is_read():
    lines = sass.parse(TEXT)["halve"]
    assert [(function, offset, mnemonic) for function, offset, mnemonic, _ in lines] == [
        ("halve", 0, "LDC"),
        ("halve", 16, "BRA"),
        ("halve", 32, "IMAD.WIDE"),
        ("halve", None, ".L_x_1"),
        ("halve", 48, "FMUL"),
        ("$__internal_0_$__cuda_sm20_div_s64", 64, "I2F.U64.RP"),
    ]
    assert lines[1][3] == "`(.L_x_1) @!P0"
    (row,) = sass.parse("\t\tFunction : add\n        /*0080*/  @P1 IADD3 R0, R0, 0x3, RZ ;  /* 0x0000 */\n")["add"]
    assert row == ("add", 128, "IADD3", "R0, R0, 0x3, RZ @P1")


@pytest.mark.parametrize(
    ("kind", "mnemonics"),
    [
        (VECTOR, "IADD3.X IMAD.WIDE.U32 IMAD.SHL.U32 LOP3.LUT SHF.R.S32.HI PRMT VIMNMX VIADDMNMX ISETP.NE.AND FLO.U32"),
        (DOT, "IMMA.16832.S8.S8 IDP.4A.S8.S8"),
        (SCALAR, "UIADD3 ULOP3.LUT USHF.L.U32 UFLO.U32 UISETP.GT.AND"),
        (MEMORY, "LDG.E.64 STS.128 LDSM.16.M88.4 IMAD.MOV.U32 MOV S2UR SHFL.BFLY REDG.E.ADD.64.STRONG.GPU ULDC.64"),
        (CONTROL, "BRA EXIT BAR.SYNC.DEFER_BLOCKING CALL.REL.NOINC NOP WARPSYNC"),
        (
            FLOATING,
            "FADD FMUL FFMA.RM FSEL FSETP.GT.AND DMUL HFMA2.MMA HMMA.16816.F32 MUFU.RCP I2F.RP I2FP.F32.S32 "
            "F2I.FTZ.U32.TRUNC.NTZ F2FP.BF16.PACK_AB UFADD RED.E.ADD.F32.FTZ.RN.STRONG.GPU NEVERHEARDOF",
        ),
    ],
)
def test_classes_of_sass(kind, mnemonics):
    for mnemonic in mnemonics.split():
        assert sass.classify(mnemonic) == kind, mnemonic


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--source forward_pair", "perhaps forward_pairs?"),
        ("--llvm nothing", "there is no kernel 'nothing'"),
        ("--asm nothing", "there is no kernel 'nothing'"),
        ("--source pack_matrix --audit", "one of them"),
    ],
)
def test_what_cannot_be_shown(show, words, says):
    status, out, err = show(*words.split())
    assert (status, out) == (2, "") and says in err and err.count("\n") == 1


def test_what_is_missing_is_said(show, monkeypatch):
    monkeypatch.setattr(compiler, "folders", lambda *names: iter(()))
    monkeypatch.setattr(kernels_cuda, "SHAPE", Shape(16, 3))  # not compiled before
    compiler.library.cache_clear()
    try:
        for words in (["--llvm", "move_signs"], ["--asm", "move_signs"], ["--audit"]):
            status, out, err = show(*words)
            assert (status, out) == (2, "") and err.count("\n") == 1
            assert "NVRTC" in err and "pip install 'egg-lm[cuda]'" in err
        assert show()[0] == show("--source", "move_signs")[0] == 0
    finally:
        compiler.library.cache_clear()


def test_without_a_disassembler(show, nvrtc, monkeypatch):
    for tool, says in ((None, "pip install nvidia-cuda-nvdisasm"), ("false", "no instruction")):
        monkeypatch.setattr(sass, "program", lambda *names, tool=tool: tool)
        for words in (["--asm", "pack_matrix"], ["--audit"]):
            status, out, err = show(*words)
            assert (status, out) == (2, "") and says in err and err.count("\n") == 1
        assert show("--llvm", "pack_matrix")[0] == 0
