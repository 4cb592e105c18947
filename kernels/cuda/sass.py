"""Machine code of NVIDIA GPUs (SASS): disassembled by the toolkit's programs, sorted into the audit's classes.

The names are those of NVIDIA's CUDA Binary Utilities, chapter Instruction Set Reference. A name that is in no list here
counts as floating point: a new instruction cannot pass unseen.
"""

import re
import subprocess
import tempfile
from pathlib import Path

from egg.kernels.audit import CONTROL, DOT, FLOATING, MEMORY, SCALAR, VECTOR
from egg.kernels.cuda.toolkit import program
from egg.kernels.layout import BackendError

INSTRUCTION_BYTES = 16

_DOT = re.compile(r"IMMA|IGMMA|BMMA|IDP|IDP4A|IDP2A")
# The integer units of a thread; FLO finds the leading one, REDUX sums over a warp.
_VECTOR = re.compile(
    r"IADD(3|32I)?|IMAD|IMAD32I|IMUL|IMUL32I|IABS|IMNMX|ISCADD|ISETP|ISET|ICMP|LOP|LOP3|LOP32I|LEA|SHF|SHL|SHR|BMSK|"
    r"SGXT|BREV|FLO|POPC|PRMT|SEL|PLOP3|PSETP|VIADD|VIMNMX3?|VIADDMNMX|VABSDIFF4?|REDUX|I2I|I2IP|XMAD"
)
# The uniform units, one result for a warp. Those of floating point (Blackwell) begin with UF, UI2F or UMUFU.
_SCALAR = re.compile(
    r"U(IADD3|IMAD|IMNMX|VIMNMX3?|VIADD|IABS|ISETP|LOP|LOP3|LOP32I|LEA|SHF|SHL|SHR|BMSK|SGXT|BREV|FLO|POPC|PRMT|SEL|"
    r"PLOP3|PSETP|SETMAXREG)"
)
_MEMORY = re.compile(
    r"LD|LDG|LDL|LDS|LDSM|LDC|LDCU|LDGSTS|LDGMC|LDGDEPBAR|ULDC|ST|STG|STL|STS|STSM|MATCH|ATOM|ATOMG|ATOMS|RED|REDG|"
    r"REDAS|UREDGR|CCTLL?|CCTLT|QSPC|MEMBAR|ERRBAR|FENCE|U?MOV|MOV32I|MOVM|U?CS2R|S2U?R|R2UR|R2P|R2B|B2R|P2R|UP2UR|"
    r"UR2UP|R2UP|SHFL|GETLMEMBASE|SETLMEMBASE|UBLK\w+|UTMA\w+|SYNCS"
)
_CONTROL = re.compile(
    r"NOP|BAR|BRA|BRX|BRXU|BREAK|BSSY|BSYNC|BMOV|BPT|CALL|RET|EXIT|KILL|JMP|JMX|JMXU|LEPC|RPCMOV|WARPSYNC|"
    r"ENDCOLLECTIVE|YIELD|NANOSLEEP|DEPBAR|VOTE|VOTEU|ELECT|PREEXIT|ACQBULK|WARPGROUP|WARPGROUPSET|PMTRIG|RTT|CGAERRBAR"
)
_FLOATING_TYPE = re.compile(r"\.(BF16|F16|F32|F64)")

_LINE = re.compile(r"\s*\{?\s*/\*([0-9a-f]{4,})\*/\s+\{?\s*(@!?U?P\w+\s+)?([A-Z]\w*(?:\.\w+)*)\s*([^;]*);")
_SECTION = re.compile(r"//-+ \.text\.(\S+)|\s*Function : (\S+)")
_LABEL = re.compile(r"\s*(\$[\w$]+|\.L[\w$]+):")


def classify(mnemonic: str) -> str:
    """The class of an instruction, one of ``egg.kernels.audit.CLASSES``.

    mnemonic : with what follows after dots, such as IMAD.MOV.U32, without a predicate
    """
    name = mnemonic.partition(".")[0]
    if mnemonic.startswith("IMAD.MOV"):  # a copy that the multiplier makes
        return MEMORY
    if _MEMORY.fullmatch(name) and _FLOATING_TYPE.search(mnemonic):  # atomic sums of floats
        return FLOATING
    for kind, names in ((DOT, _DOT), (VECTOR, _VECTOR), (SCALAR, _SCALAR), (MEMORY, _MEMORY), (CONTROL, _CONTROL)):
        if names.fullmatch(name):
            return kind
    return FLOATING


def parse(text: str) -> dict[str, list[tuple[str, int | None, str, str]]]:
    """Kernel -> (function, offset, mnemonic, operands) of each instruction, from nvdisasm's or cuobjdump's text.

    function : the kernel, or a routine of the compiler that it calls
    Labels are in between: their offset is None, and the mnemonic is the label.
    """
    kernels, function, lines = {}, "", []
    for line in text.splitlines():
        if found := _SECTION.match(line):
            function = found[1] or found[2]
            lines = kernels.setdefault(function, [])
        elif found := _LABEL.match(line):
            if found[1].startswith("$"):
                function = found[1]
            else:
                lines.append((function, None, found[1], ""))
        elif found := _LINE.match(line):
            operands = f"{found[4].strip()} {(found[2] or '').strip()}".strip()
            lines.append((function, int(found[1], 16), found[3], operands))
    return kernels


def disassemble(code: bytes) -> dict[str, list[tuple[str, int | None, str, str]]]:
    """What ``parse`` says of machine code. A predicate follows the operands.

    Raises BackendError, one line, where there is neither nvdisasm nor cuobjdump, or where it cannot read the code.
    """
    tool = program("nvdisasm", "cuobjdump")
    if tool is None:
        raise BackendError(
            "SASS cannot be read: neither nvdisasm nor cuobjdump is on PATH, in $CUDA_HOME/bin or in "
            "/usr/local/cuda/bin: pip install nvidia-cuda-nvdisasm, or the CUDA toolkit"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.cubin"
        path.write_bytes(code)
        option = "-sass" if Path(tool).name.startswith("cuobjdump") else "-c"
        done = subprocess.run([tool, option, str(path)], capture_output=True, text=True)
    kernels = parse(done.stdout)
    if done.returncode or not any(kernels.values()):
        why = next(iter((done.stderr or done.stdout).strip().splitlines()), "it printed no instruction")
        raise BackendError(f"SASS cannot be read: {tool}: {why}")
    return kernels
