"""The CUDA sources of a shape: includes resolved, and where its tensors lie as compile-time constants."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from egg.kernels.arithmetic import VOCABULARY
from egg.kernels.layout import BackendError, Shape

FOLDER = Path(__file__).parent
KERNELS = {
    "prepare.cu": ("pack_matrix", "draw_signs", "draw_sign_factors", "draw_gaussian_factors", "take_rows", "put_rows"),
    "forward.cu": ("forward_clean", "forward_pairs", "forward_ranks", "forward_kept"),
    "votes.cu": ("sum_matrices", "sum_vectors", "add_sums"),
    "pairs.cu": ("expand_signs", "move_vectors", "weigh_factors", "sum_pair_vectors"),
    "update.cu": ("move_master", "move_signs"),
    "branches.cu": ("draw_branches", "measure_moves", "move_logits", "measure_stations", "move_stations"),
    "end.cu": ("credit_end",),
    "wire.cu": ("credit_wire",),
    "stations.cu": ("credit_stations",),
    "rows.cu": ("move_rows",),
}
"""Source -> its entry points."""
SHAPED = ("forward.cu", "branches.cu", "end.cu", "wire.cu", "stations.cu")
"""Sources compiled for a shape; the others serve all."""
WARPS = 8
TILES = {16: ((128, 16),), 64: ((128, 32),), 256: ((128, 128), (64, 64), (32, 32)), 1024: ((32, 32), (16, 16))}
"""Hidden size -> members a block of threads carries, and those of a warp's part; the first that fits is taken."""
FEW = (16, 16)  # the same for few sequences: more blocks
GATE_MATRICES = ("w_f", "u_f", "w_h", "u_h")
# What a reader's byte leaves of a layer, and what it votes there: name -> hidden sizes wide. credit.cuh draws it.
KEPT = {"x": 1, "u": 1, "h": 1, "past": 1, "v": 1, "y": 4, "f": 1, "c": 1, "ends": 1, "middle": 1, "down": 1}
VOTES = {"w_f": 1, "u_f": 1, "w_h": 1, "u_h": 1, "b_f": 1, "b_h": 1, "w_down": 1}
STATION_VOTES = {"up": 4, "ln2": 1, "ln1": 1}


@dataclass(frozen=True)
class Tile:
    """How the forward pass is cut."""

    members: int
    """That one block of threads carries."""
    warp_rows: int
    """Of them, in one warp's part of a product."""

    def shared_bytes(self, hidden_size: int) -> int:
        """Shared memory of a block of threads: SHARED_BYTES of tile.cuh."""
        row = max(32, hidden_size) + 16
        return self.members * (2 * row + max(4 * row, 4 * hidden_size + 16) + 4 * 13) + 4 * 16


def tile_for(hidden_size: int, shared_limit: int) -> Tile:
    """The largest tile that fits the shared memory a block may have.

    Raises BackendError if none does.
    """
    tiles = [Tile(*numbers) for numbers in TILES[hidden_size]]
    for tile in tiles:
        if tile.shared_bytes(hidden_size) <= shared_limit:
            return tile
    raise BackendError(
        f"backend cupy: hidden size {hidden_size} needs {tiles[-1].shared_bytes(hidden_size)} bytes of shared memory "
        f"a block, this device has {shared_limit}: use --backend numba"
    )


def packed_bytes(shape: tuple[int, int]) -> int:
    """Bytes of a packed matrix: inputs are padded to 32."""
    return shape[0] * max(32, shape[1])


@cache
def packed_offsets(shape: Shape) -> dict[str, int]:
    """Where each matrix lies among the packed ones, and under "" the bytes of all."""
    offsets, at = {}, 0
    for name, tensor in shape.tensors.items():
        if len(tensor.shape) == 2 and name != "embedding.weight":
            offsets[name] = at
            at += packed_bytes(tensor.shape)
    return offsets | {"": at}


def sign_words(shape: Shape) -> int:
    """32-bit words from one direction's signs to the next: whole outputs of the generator."""
    return -(-shape.sign_words // 4) * 4


def factor_width(shape: Shape, gaussian: bool) -> int:
    """Bytes from one direction's factors to the next: as the signs lie, or as the Gaussian factors do."""
    if not gaussian:
        return 32 * sign_words(shape)
    return -(-shape.gaussian_halfwords // 64) * 64


def _columns(widths: dict[str, int], unit: int) -> dict[str, int]:
    """Where each of these begins, and under "layer" where the next layer does."""
    places, at = {}, 0
    for name, width in widths.items():
        places[name] = at
        at += width * unit
    return places | {"layer": at}


@cache
def kept_columns(shape: Shape) -> dict[str, int]:
    """Columns of what a byte leaves: of the first layer by name; "layer", of the next; "end", "o"; "row", all bytes."""
    places, d = _columns(KEPT, shape.hidden_size), shape.hidden_size
    end = places["layer"] * shape.num_layers
    return places | {"end": end, "o": end + d, "row": end + 2 * d}


@cache
def vote_columns(shape: Shape) -> dict[str, int]:
    """The same of its votes: "gain" of the last norm, "head", "row".

    With stations a row goes on: from "row" on with what a layer's stations vote, by name from there, "more" of them a
    layer, to "wide_row".
    """
    places, more = _columns(VOTES, shape.hidden_size), _columns(STATION_VOTES, shape.hidden_size)
    gain = places["layer"] * shape.num_layers
    head = gain + shape.hidden_size
    row, width = head + VOCABULARY, more.pop("layer")
    ends = {"gain": gain, "head": head, "row": row, "more": width, "wide_row": row + width * shape.num_layers}
    return places | more | ends


@cache
def defines(shape: Shape, tile: Tile, gaussian: bool = False) -> tuple[str, ...]:
    """Compiler options of the sources in SHAPED; BIT_* are places of signs, or of Gaussian factors."""
    tensors, packed, layers = shape.tensors, packed_offsets(shape), shape.num_layers
    factors = shape.gaussian if gaussian else tensors
    names = {"EMBEDDING": "embedding.weight", "LN_OUT": "ln_out.weight", "HEAD": "head.weight"}
    for kind in ("ln1", "ln2"):
        names[kind.upper()] = f"layers.0.{kind}.weight"
    for kind in (*GATE_MATRICES, "b_f", "b_h"):
        names[kind.upper()] = f"layers.0.gru.{kind}"
    for kind in ("w_up", "w_down"):
        names[kind.upper()] = f"layers.0.mlp.{kind}"
    first, end = "layers.0.ln1.weight", "ln_out.weight"
    values = {
        "HIDDEN": shape.hidden_size,
        "LAYERS": layers,
        "TILE": tile.members,
        "WARP_ROWS": tile.warp_rows,
        "WARPS": WARPS,
        "WORDS": sign_words(shape),
        "LAYER_BITS": (factors[end].a - factors[first].a) // layers,
        "LAYER_WEIGHTS": (tensors[end].offset - tensors[first].offset) // layers,
        "LAYER_PACKED": packed["head.weight"] // layers,
    }
    for short, name in names.items():
        values[f"AT_{short}"] = tensors[name].offset
        values[f"BIT_A_{short}"] = factors[name].a
        values[f"BIT_B_{short}"] = factors[name].b
        if name in packed:
            values[f"PACKED_{short}"] = packed[name]
    values |= {f"KEPT_{name.upper()}": at for name, at in kept_columns(shape).items()}
    values |= {f"VOTE_{name.upper()}": at for name, at in vote_columns(shape).items()}
    return tuple(f"-D{name}={value}" for name, value in values.items())


@cache
def source(name: str) -> str:
    """A source with its includes put in, each once: the compiler needs no folder, and caches see every change."""
    seen = set()

    def lines(file):
        for line in (FOLDER / file).read_text(encoding="utf-8").splitlines():
            if line.startswith('#include "'):
                other = line.split('"')[1]
                if other not in seen:
                    seen.add(other)
                    yield from lines(other)
            elif line != "#pragma once":
                yield line

    return "\n".join(lines(name)) + "\n"
