"""Every kernel of the CPU backend: what is compiled by itself and what ends up inside, its types, its code."""

import inspect
import itertools
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType

import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher

from egg.kernels.arithmetic import STATIONS, sampling_weights
from egg.kernels.audit import Code, elf_functions
from egg.kernels.backend import Adapter, Choice, Draw, Noise
from egg.kernels.cpu import adapters, noise, team
from egg.kernels.layout import AdapterShape, BackendError, Shape

PATHS = {
    name: path
    for path, names in {
        "forward": "pack forward layers tiles structures adapters adapted tasks team branches.read_and_credit",
        "perturbation": "signs noise full_rank forward.project forward.vector branches.draw_turns branches.draw_rows "
        "branches.prepare_moves stations.prepare_moves stations.prepare_station credit.transform_rows "
        "credit.move_shift pair_votes.draw_directions tasks.draw_branches tasks.transform_head tasks.prepare_head "
        "gaussian_votes.draw_gaussian structures.direction_of "
        "structures.gain structures.side structures.embedding_sign structures.a_signs structures.b_signs "
        "adapters.factor_signs",
        "score": "score likelihood branches.score_reader",
        "credit": "branches credit stations",
        "vote": "votes pair_votes gaussian_votes full_rank.sum_signs credit.cast credit.deposit credit.narrow "
        "branches.vote_along branches.vote_four branches.as_vote stations.vote_through stations.vote_stations "
        "tasks.vote_wire tasks.sum_panel tasks.sum_part",
        "coding": "coder",
        "sampling": "writing",
        "update": "votes.integer_root votes.divided votes.move_rows votes.move_master votes.move_signs tasks.move_some",
    }.items()
    for name in names.split()
}
"""What a kernel is for, by its module or by itself: a step of the calculation."""
OVERLOADS = adapters.OVERLOADS | noise.OVERLOADS
# Wrappers that Numba compiles beside each kernel: they unpack arguments.
CALLS = "calls from Python"
RUNTIME = "Numba's runtime"  # reference counts


@dataclass(frozen=True)
class Kernel:
    """One kernel."""

    name: str
    """module.function, below egg.kernels.cpu."""
    path: str
    """The step it belongs to: forward, perturbation, score, credit, vote, update, coding or sampling."""
    purpose: str
    """First line of its documentation."""
    called_by: tuple[str, ...]
    """Kernels that it is compiled into; none: the backend calls it, and it has machine code of its own."""
    dispatcher: Dispatcher

    def source(self) -> str:
        """The kernel as it is written."""
        return inspect.getsource(self.dispatcher.py_func)

    def signatures(self) -> list[str]:
        """Its arguments with dtypes and shapes, once for each way it was compiled: ``name dtype (shape)``."""
        names = list(inspect.signature(self.dispatcher.py_func).parameters)
        shapes = _documented_shapes(self.dispatcher.py_func.__doc__ or "")
        found = dict.fromkeys(
            ", ".join(f"{name} {_type(kind, shapes.get(name))}" for name, kind in zip(names, kinds, strict=True))
            for kinds in _compiled(self.dispatcher)
        )
        return list(found)

    def codes(self) -> list[Code]:
        """The machine code of each way it was compiled.

        Raises BackendError if it was compiled by itself in no way, or its object cannot be read.
        """
        codes = [_code(self.name, *library) for library in _libraries(self.dispatcher)]
        if not codes:
            raise BackendError(
                f"{self.name} has no machine code of its own: it is compiled into {', '.join(self.called_by)}"
            )
        return codes

    def llvm(self) -> str:
        """LLVM's optimised code, from which the machine code was made."""
        import llvmlite.binding as llvm

        return "\n".join(str(llvm.parse_bitcode(bitcode)) for _, bitcode in _libraries(self.dispatcher))


def kernels(backend) -> dict[str, Kernel]:
    """Every kernel of the CPU backend by name, those first that the backend, or its coder, calls."""
    from egg.kernels.cpu import backend as module
    from egg.kernels.cpu import coder

    entries = {}
    roots = (type(backend), module), (team.Team, team), (coder.Encoder, coder), (coder.Decoder, coder)
    for kind, where in roots:
        for dispatcher in referred(kind, vars(where)):
            entries[_name(dispatcher)] = dispatcher
    found, callers, waiting = dict(entries), {}, list(entries.values())
    while waiting:
        caller = waiting.pop(0)
        for callee in referred(caller.py_func.__code__, caller.py_func.__globals__):
            name = _name(callee)
            callers.setdefault(name, []).append(_name(caller))
            if name not in found:
                found[name] = callee
                waiting.append(callee)
    return {
        name: Kernel(
            name,
            path_of(name),
            (dispatcher.py_func.__doc__ or "").strip().splitlines()[0],
            tuple(callers.get(name, ())),
            dispatcher,
        )
        for name, dispatcher in found.items()
    }


def path_of(name: str) -> str:
    """The step that a kernel belongs to; "other" for one that PATHS does not know."""
    return PATHS.get(name) or PATHS.get(name.split(".")[0], "other")


def compile_all(backend) -> None:
    """Call everything that the backend and its coder do, once and small, so that all of it is compiled."""
    from egg.kernels.cpu.coder import Decoder, Encoder

    encoder, logits = Encoder(), np.zeros((1, 2, 256), np.int8)
    encoder.put(logits, np.ones((1, 2), np.uint8))
    Decoder(encoder.finish()).take(logits[:, 0])
    team.look_out.compile(team.HELPER)  # which one thread alone has no need of
    for d in (64, 16):
        shape = Shape(d, 1)
        weights = np.ones(shape.parameters, np.int8)
        tokens = np.ones((16, 5), np.uint8)
        states = np.zeros((16, 1, d), np.int8)
        model, noise = backend.prepare(shape, weights), Noise(0, 0, 4)
        draw = Draw(0, 0, d, np.zeros(shape.vote_kinds(), np.int64))
        backend.forward(model, tokens, states)
        backend.forward(model, np.ones((1, 16), np.uint8), states[:1])
        backend.score(model, tokens, states)
        beginning = np.zeros((16, 256), np.int8), states, np.arange(16), range(1)
        backend.write(model, *beginning, Choice(sampling_weights(256), 3, 9))
        cast = backend.cast_votes(model, tokens, states, draw)
        shifts = np.zeros(shape.vote_kinds(stations=True), np.int64)
        backend.cast_votes(model, tokens, states, Draw(0, 0, d, shifts, STATIONS))
        squares = np.zeros(shape.rows, np.int64)
        backend.update_rows(shape, weights.astype(np.int32), squares, cast.votes, 0, 1)
        layout = AdapterShape(shape, 1, shape.matrices)
        adapter = Adapter(layout, np.ones(layout.parameters, np.int8))
        adapted = backend.prepare(shape, weights, adapter)
        backend.forward(adapted, tokens, states)
        backend.forward(adapted, np.ones((1, 16), np.uint8), states[:1])
        backend.write(adapted, *beginning, Choice(None))
        backend.cast_votes(adapted, tokens, states, draw)
        backend.read_adapter_pairs(adapted, tokens, states, noise)
        backend.update_master(shape, weights.astype(np.int16), weights.astype(np.int64), 1)
        gaussian = Noise(0, 0, 4, gaussian=True)
        backend.read_adapter_pairs(adapted, tokens, states, gaussian)
        fitness = np.full(8, 2, np.int8)
        for kind in (noise, gaussian):
            backend.run_pairs(model, tokens[:8], states, kind)
            votes = backend.cast_pair_votes(shape, fitness, kind)
        backend.update_signs(weights, votes, 1)
        backend.add_full_rank(weights, noise, 0, 1)
        backend.cast_full_rank_votes(shape.parameters, np.ones(1, np.int64), noise)


def referred(where, names: dict) -> Iterator[Dispatcher]:
    """The kernels that a class or a function's code names, in order.

    Directly, as an attribute of a module, or in what an overloaded function stands for.
    """
    modules = [v for v in names.values() if isinstance(v, ModuleType) and v.__name__.startswith("egg.kernels.")]
    for code in _codes(where):
        for name in code.co_names:
            for value in [names.get(name), *(getattr(m, name, None) for m in modules)]:
                if isinstance(value, Dispatcher):
                    yield value
                    break
                if isinstance(value, FunctionType) and value in OVERLOADS:
                    overload = OVERLOADS[value]
                    if isinstance(overload, Dispatcher):
                        yield overload
                    else:
                        yield from referred(overload.__code__, overload.__globals__)
                    break


def _codes(where) -> Iterator[CodeType]:
    if isinstance(where, CodeType):
        yield where
        inner = where.co_consts
    else:
        inner = [getattr(member, "__code__", None) for member in vars(where).values()]
    for code in inner:
        if isinstance(code, CodeType):
            yield from _codes(code)


def _name(dispatcher: Dispatcher) -> str:
    return f"{dispatcher.py_func.__module__.rsplit('.', 1)[-1]}.{dispatcher.py_func.__name__}"


def _documented_shapes(text: str) -> dict[str, str]:
    """Argument -> shape, from lines such as ``s0, s1 : (T, members) int32``."""
    lines = re.findall(r"^\s*([\w, ]+) : (\([^)]*\))", text, re.MULTILINE)
    return {name.strip(): shape for names, shape in lines for name in names.split(",")}


def _type(kind, shape: str | None) -> str:
    if isinstance(kind, types.Array):
        unknown = f"({', '.join('?' * kind.ndim)}{',' * (kind.ndim == 1)})"
        return f"{kind.dtype} {shape or unknown}"
    named = getattr(kind, "instance_class", None)
    return named.__name__ if named else str(kind)


def _compiled(dispatcher: Dispatcher) -> list[tuple]:
    """The argument types it was compiled for, in this process or, for this CPU, in the cache."""
    return list(dict.fromkeys([*dispatcher.overloads, *(key[0] for key in _cached(dispatcher))]))


def _cached(dispatcher: Dispatcher) -> list[tuple]:
    """Keys of its compiled forms in Numba's cache that are for this CPU; none if it has no cache."""
    files = getattr(dispatcher._cache, "_cache_file", None)
    if files is None:
        return []
    here = dispatcher.targetctx.codegen().magic_tuple()
    return [key for key in files._load_index() if key[1] == here]


def _libraries(dispatcher: Dispatcher) -> Iterator[tuple[bytes, bytes]]:
    """Object code and LLVM bitcode of each of its compiled forms.

    Code that was loaded from the cache is read there: Numba keeps the object no longer than it takes to link it.
    """
    keys = _cached(dispatcher)
    for key in keys:
        reduced = dispatcher._cache._cache_file.load(key)
        if reduced is not None:
            _, kind, content = reduced[0]
            if kind != "object":
                raise BackendError(f"{_name(dispatcher)}: its cache holds {kind}, not machine code")
            yield content
    if not keys:  # compiled without a cache: the same optimised code, by the same code generator
        import llvmlite.binding as llvm

        for result in dispatcher.overloads.values():
            bitcode = result.library.serialize_using_bitcode()[2]
            target = result.library.codegen._tm
            yield target.emit_object(llvm.parse_bitcode(bitcode)), bitcode


def _code(name: str, machine_code: bytes, bitcode: bytes) -> Code:
    import llvmlite.binding as llvm

    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower())
    module = llvm.parse_bitcode(bitcode)
    if machine_code[:4] == b"\x7fELF":
        sections, functions = elf_functions(machine_code)
    else:  # macOS, Windows: LLVM finds the sections, the functions in them stay unnamed
        parts = llvm.ObjectFileRef.from_data(machine_code).sections()
        sections, functions = tuple(s.data() for s in parts if s.is_text() and s.size()), []
    return Code(
        name,
        machine or platform.machine(),
        sections,
        tuple((*where, _readable(symbol)) for *where, symbol in functions),
        tuple(
            str(f).strip().splitlines()[-1]  # without a comment on its attributes
            for f in module.functions
            if f.is_declaration
        ),
    )


def _readable(symbol: str) -> str:
    """module.function of a kernel from the name that Numba gave its machine code."""
    if symbol.startswith("NRT_"):
        return RUNTIME
    mangled = re.match(r"(cfunc\.|_ZN6cpython|_ZN7cpython)?(?:_ZN)?((?:\d+\w+)+)", symbol)
    if symbol.startswith(("_ZN7cpython", "cfunc.")) or not mangled:
        return CALLS
    parts, rest = [], symbol.removeprefix("_ZN")
    while match := re.match(r"\d+", rest):
        size = int(match[0])
        parts.append(rest[match.end() : match.end() + size])
        rest = rest[match.end() + size :]
    return ".".join(itertools.islice(parts, max(0, len(parts) - 2), None)) or CALLS
