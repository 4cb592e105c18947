"""Is compiled code integer only? Disassembles it, counts instructions by class, and names every exception.

What is read is the machine code that runs, as the compiler left it; nothing here trusts the source. Capstone decodes
it. An instruction that it cannot decode, or one on vector registers whose name ends like a floating-point one and is
not known to move bits alone, counts against the code.
"""

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from egg.kernels.layout import BackendError

VECTOR, DOT, SCALAR, MEMORY, CONTROL, FLOATING = CLASSES = (
    "integer vector",
    "dot product",
    "scalar integer",
    "memory and moves",
    "control",
    "floating point",
)
"""Classes of instructions; the second is VNNI's and NEON's, which multiply and add four bytes at once."""

UNDECODED = "(not decoded)"

# x86-64. A leading v (AVX) is taken off before these are matched.
_X86_DOT = re.compile(r"pdp[bw]\w+|tdpb[su][su]d")
_X86_CONTROL = re.compile(
    r"j\w+|call|ret\w*|loop\w*|nop\w*|endbr\w+|ud2|int3|hlt|leave|enter|zero(upper|all)|[lms]fence|pause|prefetch\w+"
)
_X86_MOVES = re.compile(
    # loads, stores and copies; string moves
    r"mov\w*|push\w*|pop[fq]?|popa\w*|xchg|stos\w*|lods\w*|lddqu|kmov\w|maskmov\w+|pmaskmov\w+|bswap|ldmxcsr|stmxcsr|"
    # shuffles, widening and narrowing of integer lanes, whatever the suffix: they move bits
    r"p?broadcast\w+|pmov\w+|perm\w+|pshuf\w+|p?unpck\w+|punpck\w+|p?insert?[bdqwrif]\w*|pinsr\w|p?extr\w+|"
    r"p?(un)?align\w+|pack\w+|p?blend\w+|p?gather\w+|p?scatter\w+|p?compress\w+|p?expand\w+|"
    # bitwise operations and shuffles of the single-precision set, which compilers use for any bits
    r"(and|andn|or|xor)p[sd]|shufp[sd]|shuff\d\w+|shufi\d\w+|insertps|extractps|testp[sd]"
)
_X86_FLOATING = re.compile(r"(?!p)\w*(s[sdh]|p[sdh]|bf16)|cvt\w+")
_X86_VECTOR_REGISTER = re.compile(r"\b([xyzt]mm\d+|mm\d|k[0-7])\b")
_X87 = re.compile(r"(wait )?f(?!xsave|xrstor|emms|nop)\w+")

# AArch64: floating-point instructions begin with f, but for a move; and the conversions.
_ARM_DOT = re.compile(r"[su]dot|usdot|sudot|[su]mmla|usmmla")
_ARM_FLOATING = re.compile(r"f(?!mov)\w+|[su]cvtf|bf\w*(dot|cvt|mla\w?|mmla)\w*")
_ARM_CONTROL = re.compile(r"b(\.\w+)?|bl|blr|br|ret\w*|cbn?z|tbn?z|nop|hint|brk|bti|[di]sb|dmb|svc|pac\w+|aut\w+")
_ARM_MOVES = re.compile(
    r"ld\w+|st\w+|prf\w+|mov\w*|mvn\w?|f?mov|adrp?|dup|ins|umov|smov|zip[12]|uzp[12]|trn[12]|ext|tb[lx]|rev\d*|"
    r"[su]xt[bhwl]2?|[su]shll2?|[su]?q?xtu?n2?|swp\w*|cas\w*"
)
_ARM_VECTOR_REGISTER = re.compile(r"\b[vqz]\d+\b|\b[vqz]\d+\.")


@dataclass(frozen=True)
class Code:
    """Machine code of one compiled kernel."""

    name: str
    """Of the kernel that is called: module.function."""
    machine: str
    """x86_64 or aarch64."""
    sections: tuple[bytes, ...]
    """The object's executable sections."""
    functions: tuple[tuple[int, int, int, str], ...]
    """(section, begin, end, name) of every function in them, in order; names of kernels are module.function. What is
    in none belongs to the kernel that is called."""
    calls: tuple[str, ...] = ()
    """Declarations, as LLVM writes them, of what is called outside the object."""


@dataclass(frozen=True)
class Finding:
    """Something that is not integer arithmetic, and where."""

    kernel: str
    """The kernel that is called."""
    function: str
    """The function of its object that holds it; the kernel itself, or one that was not inlined."""
    offset: int
    """Bytes from the function's beginning."""
    instruction: str

    def __str__(self) -> str:
        where = self.kernel if self.function == self.kernel else f"{self.kernel}, in {self.function}"
        return f"{where} at +0x{self.offset:x}: {self.instruction}"


@dataclass
class Audit:
    """What was counted."""

    counts: dict[str, Counter] = field(default_factory=dict)
    """Function -> class -> instructions, over all the objects that hold the function."""
    objects: dict[str, int] = field(default_factory=dict)
    """Kernel that is called -> bytes of machine code of its objects."""
    findings: list[Finding] = field(default_factory=list)
    """Every floating-point arithmetic instruction, and every byte that could not be decoded."""

    @property
    def total(self) -> Counter:
        """Class -> instructions of all the code."""
        return sum(self.counts.values(), Counter())

    @property
    def passed(self) -> bool:
        """Whether there was code, and all of it integer only."""
        return bool(self.counts) and not self.findings

    def verdict(self) -> str:
        """One line that sums it up."""
        counted = sum(self.total.values())
        several = "s" * (len(self.objects) != 1)
        what = f"{counted:,} instructions in {len(self.objects)} compiled kernel{several}"
        if self.passed:
            return f"integer only: {what}, 0 of them floating-point arithmetic"
        if not self.counts:
            return "not integer only: no compiled code was found, so nothing is shown"
        places = sorted({f.kernel for f in self.findings})
        return f"not integer only: {len(self.findings)} of {what} are floating point, in {', '.join(places)}"


def classify(mnemonic: str, operands: str = "", machine: str = "x86_64") -> str:
    """The class of an instruction, one of CLASSES.

    mnemonic, operands : as Capstone writes them, Intel's syntax on x86
    """
    if machine == "aarch64":
        return _classify_arm(mnemonic, operands)
    plain = mnemonic.rsplit(" ", 1)[-1]  # without lock, rep and the like
    if _X87.fullmatch(mnemonic):
        return FLOATING
    base = plain.removeprefix("v")
    for pattern, kind in ((_X86_CONTROL, CONTROL), (_X86_DOT, DOT), (_X86_MOVES, MEMORY)):
        if pattern.fullmatch(base):
            return kind
    if not _X86_VECTOR_REGISTER.search(operands):
        return SCALAR
    return FLOATING if _X86_FLOATING.fullmatch(base) else VECTOR


def _classify_arm(mnemonic: str, operands: str) -> str:
    kinds = (_ARM_DOT, DOT), (_ARM_FLOATING, FLOATING), (_ARM_CONTROL, CONTROL), (_ARM_MOVES, MEMORY)
    for pattern, kind in kinds:
        if pattern.fullmatch(mnemonic):
            return kind
    return VECTOR if _ARM_VECTOR_REGISTER.search(operands) else SCALAR


def instructions(code: Code) -> Iterator[tuple[str, int, str, str]]:
    """(function, offset in it, mnemonic, operands) of every instruction, in order.

    Bytes that cannot be decoded are given as UNDECODED, one by one.
    Raises BackendError for a machine that this does not know, or without Capstone.
    """
    decoder = _decoder(code.machine)
    for number, data in enumerate(code.sections):
        spans = [f for f in code.functions if f[0] == number]
        at = 0
        for begin, end, name in [*(f[1:] for f in spans), (len(data), len(data), code.name)]:
            for first, last, owner in ((at, begin, code.name), (begin, end, name)):
                yield from _decode(decoder, data[first:last], owner)
            at = max(at, end)


def _decode(decoder, data: bytes, owner: str) -> Iterator[tuple[str, int, str, str]]:
    at = 0
    while at < len(data):
        for _, size, mnemonic, operands in decoder.disasm_lite(data[at:], 0):
            yield owner, at, mnemonic, operands
            at += size
        if at < len(data):
            yield owner, at, UNDECODED, data[at : at + 1].hex()
            at += 1


def _decoder(machine: str):
    try:
        import capstone
    except ImportError as error:
        raise BackendError(f"machine code cannot be read: {error}; pip install capstone") from error
    if machine == "x86_64":
        return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    if machine == "aarch64":
        return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    raise BackendError(f"machine code of {machine} is not known to the audit: x86_64 and aarch64 are")


def audit(codes: list[Code]) -> Audit:
    """Count the instructions of compiled kernels by class, and find what is not integer arithmetic."""
    result = Audit()
    for code in codes:
        size = sum(map(len, code.sections))
        result.objects[code.name] = result.objects.get(code.name, 0) + size
        for function, offset, mnemonic, operands in instructions(code):
            kind = FLOATING if mnemonic == UNDECODED else classify(mnemonic, operands, code.machine)
            result.counts.setdefault(function, Counter())[kind] += 1
            if kind == FLOATING:
                text = f"{mnemonic} {operands}".strip()
                result.findings.append(Finding(code.name, function, offset, text))
        for declaration in code.calls:  # arithmetic can hide in a function of a library
            if re.search(r"\b(half|bfloat|float|double|x86_fp80|fp128)\b", declaration):
                result.findings.append(Finding(code.name, code.name, 0, f"calls {declaration}"))
    return result


def elf_functions(data: bytes) -> tuple[tuple[bytes, ...], list[tuple[int, int, int, str]]]:
    """Executable sections of a 64-bit little-endian ELF object, and its functions as (section, begin, end, name).

    Raises BackendError for any other file.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise BackendError("the compiled code is no 64-bit ELF object: other formats are not read")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + size * i) for i in range(count)]
    texts, functions = {}, []
    for number, (_, kind, flags, _, offset, length, *_) in enumerate(headers):
        if kind == 1 and flags & 4 and length:  # SHT_PROGBITS, SHF_EXECINSTR
            texts[number] = data[offset : offset + length]
    order = list(texts)
    for _, kind, _, _, offset, length, link, *_ in headers:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = headers[link][4]
        for at in range(offset, offset + length, 24):
            name, info, _, section, value, extent = struct.unpack_from("<IBBHQQ", data, at)
            if info & 15 == 2 and section in texts and extent:  # STT_FUNC
                end = data.index(b"\0", strings + name)
                text = data[strings + name : end].decode(errors="replace")
                functions.append((order.index(section), value, value + extent, text))
    return tuple(texts.values()), sorted(set(functions))
