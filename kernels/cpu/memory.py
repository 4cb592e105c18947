"""Memory of the CPU backend: blocks of members that fit the caches, and what a step of recipe ``egg`` keeps."""

import numpy as np

from egg.kernels.arithmetic import READ_BY, VOCABULARY, adapter_lift
from egg.kernels.cpu import stations, structures, tasks
from egg.kernels.cpu.adapters import RANKS
from egg.kernels.cpu.places import adapter_plan, columns, vector_places, vote_plan
from egg.kernels.cpu.simd import aligned, pointer_to
from egg.kernels.cpu.team import task_address
from egg.kernels.cpu.tiles import ROWS
from egg.kernels.layout import Shape

# Of a block's activations, states and signs: they stay in a core's second-level cache
BLOCK_BYTES = 384 << 10


def _wide_row(shape: Shape) -> int:
    """Bytes of a product's input with a z of the highest rank appended, for the widest product."""
    inputs = 4 * shape.hidden_size
    return inputs + (RANKS << adapter_lift(inputs)) + 64


def _filled(shape, dtype):
    """Offset bytes that mean zero."""
    out = aligned(shape, dtype)
    out[...] = structures.OFFSET
    return out


def as_words(numbers) -> np.ndarray:
    """A structure in memory."""
    return np.array(tuple(numbers), np.int64)


def members_per_block(shape, adapter=None, *, moved: int = 0) -> int:
    """As many members as the second-level cache holds, at least 16, at most 128.

    moved : bytes of a member's directions
    """
    stride = max(64, shape.hidden_size)
    each = (structures.BUFFERS + 4 + shape.num_layers) * stride + 2 * VOCABULARY
    each += moved
    if adapter:
        each += _wide_row(shape)
    return min(128, max(16, BLOCK_BYTES // each // 16 * 16))


def new_block(shape, members, length, text, moved, adapter, credited=False, with_stations=False):
    """A block and the arrays that must live as long.

    credited : whether its members leave behind what votes need
    with_stations : and what stations need
    """
    d, layers = shape.hidden_size, shape.num_layers
    padded, stride = -(-members // 4) * 4, max(64, d)
    seen, bytes_ = (padded, length) if credited else (0, 0)
    words = -(-(adapter or shape).sign_words // 64) * 64
    wide_row = _wide_row(shape) if adapter else 0
    scratch = 4 * (VOCABULARY + 2 * d + 64 * layers) + 128 * shape.vote_kinds(with_stations)
    planes = structures.SAVED_FOR_STATIONS if with_stations else structures.SAVED
    arrays = (
        _filled((structures.BUFFERS, padded, stride), np.uint8),
        _filled((padded, 4 * stride), np.uint8),
        _filled((layers, padded, stride), np.uint8),
        np.empty((padded, VOCABULARY), np.int8),
        np.zeros((padded, 2), np.int32),
        np.zeros((padded if moved else 0, words), np.uint32),
        _filled((padded, wide_row), np.uint8),
        aligned(((seen + 1) * VOCABULARY,), np.int16),
        aligned((bytes_, layers, planes, seen, stride), np.int8),
        aligned((bytes_, seen, stride), np.int32),
        aligned((scratch,), np.uint8),
        aligned((stations.work_bytes(layers, padded, stride) if with_stations else 0,), np.uint8),
    )
    addresses = [pointer_to(array) for array in arrays]
    addresses.insert(8, planes)
    addresses.insert(6, wide_row)
    block = structures.Block(members, padded, 0, stride, length, text, 4 * words, *addresses, *[0] * 4)
    return block, arrays


def blocks_of(backend, shape, layout, streams, length, credited=False, with_stations=False):
    """Parts to cut so many streams into, and blocks to read them with: one for each part, or for each thread if fewer.

    returns : the number of parts, and ``new_block`` of every block
    """
    fours = -(-streams // ROWS)
    parts = backend.parts(fours, members_per_block(shape, layout) // ROWS, 1)
    members = ROWS * -(-fours // max(1, parts))
    slots = range(min(parts, backend.threads))
    return parts, [new_block(shape, members, length, 1, False, layout, credited, with_stations) for _ in slots]


def recall(kept: dict, key, most: int, make):
    """What is kept under a key, or else made of it; that of the ``most`` latest keys is kept."""
    if key in kept:
        kept[key] = kept.pop(key)
    else:
        if len(kept) == most:
            kept.pop(next(iter(kept)))  # its memory comes first
        kept[key] = make(*key)
    return kept[key]


class Casting:
    """What ``cast_votes`` keeps from step to step: large arrays, and what follows from the sizes alone."""

    def __init__(self, backend, shape, layout, streams, length, count, on):
        d, layers, names = shape.hidden_size, shape.num_layers, [n for station in on for n in READ_BY[station]]
        quads = -(-streams // ROWS) * length
        parts, made = blocks_of(backend, shape, layout, streams, length, True, bool(on))
        kinds = shape.vote_kinds(bool(on))
        v_columns, x_columns = columns(shape)
        if on:
            v_columns, x_columns = v_columns + 4 * d * layers, x_columns + d * layers
        plan, size = vote_plan(shape, "middle" in on) if layout is None else adapter_plan(layout)
        tensors = [shape.tensors[f"layers.{layer}.{name}"] for layer in range(layers) for name in names]
        self.shifts, self.totals = np.empty(kinds, np.int64), np.empty((parts, kinds), np.int64)
        self.scores, self.votes = np.empty(parts, np.int64), np.zeros(size, np.int32)  # what is never voted on stays
        noise = as_words(structures.UNMOVED)
        v, x = aligned((quads * v_columns,), np.int32), aligned((quads * x_columns,), np.int32)
        z = aligned((quads * RANKS * len(layout.matrices) if layout else 0,), np.int32)
        blocks = np.array(
            [b._replace(quads=quads, v=pointer_to(v), x=pointer_to(x), z=pointer_to(z)) for b, _ in made], np.int64
        )
        of_draw = {
            "moves": aligned((VOCABULARY // 2, count), np.int32),
            "rows": np.empty(count, np.int64),
            "signs": aligned((d,), np.int32),
            "turns": aligned((count,), np.int32),
            "shifts": self.shifts,
            "station_moves": aligned((shape.parameters if on else 0,), np.int8),
            "station_shifts": np.empty(len(shape.tensors), np.int64),
            "all_turns": aligned((d,), np.int32),
            "wide_signs": aligned((4 * d,), np.int32),
            "wide_turns": aligned((4 * d,), np.int32),
        }
        draw = {"count": count, "stations": sum(structures.ON[name] for name in on)}
        draw |= {name: pointer_to(array) for name, array in of_draw.items()}
        draw = as_words(draw.get(name, 0) for name in structures.BranchParameters._fields)
        of_call = {
            "noise": noise,
            "tables": as_words(backend.tables),
            "blocks": blocks,
            "draw": draw,
            "words": aligned((2, max(tasks.WORDS, d)), np.uint32),
            "transformed": aligned((VOCABULARY, d), np.int32),
            "magnitudes": np.empty(VOCABULARY // tasks.HEAD_ROWS, np.int64),
            "stations": np.array([(t.number, t.offset, *t.shape) for t in tensors], np.int64),
            "scratch": aligned((backend.threads if on else 0, 4 * d * d), np.int32),
            "rows": aligned((streams, length, d), np.int8),
            "vectors": aligned((parts, 1 + 4 * layers, d), np.int32),
            "totals": self.totals,
            "scores": self.scores,
            "plan": plan,
            "places": np.array([place.start for place in vector_places(shape)], np.int64),
            "votes": self.votes,
        }
        call = {"slots": len(made), "streams": streams, "length": length, "parts": parts, "kinds": kinds}
        self.phases, vote = backend.phases(layout, on, parts, len(plan), d, len(tensors))
        call |= {"panels": len(plan), "size": size, "vote": task_address(vote)}
        call |= {name: pointer_to(array) for name, array in of_call.items()}
        self.call = structures.Step(*(call.get(name, 0) for name in structures.Step._fields))
        self.arrays = v, x, z, made, of_draw, of_call  # must live as long
