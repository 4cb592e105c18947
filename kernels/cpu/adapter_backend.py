"""What the Numba backend does for adapters: packs them, and casts the votes on them."""

from functools import cache

import numpy as np

from kernels.arithmetic import VOTE_ROWS, adapter_lift
from kernels.backend import Adapter, TracedVotes
from kernels.cpu import adapter_votes, structures, votes
from kernels.cpu.adapters import KEEPS, MOVES, RANKS, AdaptedModel
from kernels.cpu.simd import aligned
from kernels.layout import AdapterShape

# kind of matrix -> its input in the trace, in units of D, and its outputs among those that arrive
PLACES = {
    "w_f": (structures.X_U, structures.V_F),
    "u_f": (structures.X_H, structures.V_F),
    "w_h": (structures.X_U, structures.V_H),
    "u_h": (structures.X_PAST, structures.V_H),
    "w_up": (structures.X_LN2, structures.V_UP),
    "w_down": (structures.X_MID, structures.V_DOWN),
}


def widen(model: structures.Model, shape, weights: np.ndarray, adapter: Adapter):
    """The packed model with an adapter, and the arrays that must live as long.

    weights : (parameters,) int8
    """
    layout, factors = adapter.shape, adapter.shape.views(adapter.factors)
    matrices, views = layout.matrices, shape.views(weights)
    number = np.full(len(shape.tensors), -1, np.int64)
    panels, starts, rows = [], [], []
    inner_starts = np.zeros((len(matrices), RANKS), np.int32)
    signs = np.empty((len(matrices), 4), np.int64)
    for m, name in enumerate(matrices):
        number[shape.tensors[name].number] = m
        w, a, b = views[name], factors[name + ".A"], factors[name + ".B"]
        (outputs, inputs), rank = w.shape, layout.rank
        copies = 1 << adapter_lift(inputs)
        extra = -(-rank * copies // 4) * 4
        wide = np.zeros((outputs, inputs + extra), np.int8)
        wide[:, :inputs] = w
        wide[:, inputs : inputs + rank * copies] = np.tile(b, copies)
        width = min(64, outputs)
        quads = wide.reshape(outputs // width, width, -1, 4).transpose(0, 2, 1, 3)
        panels.append(np.ascontiguousarray(quads).ravel())
        starts.append(-structures.OFFSET * wide.sum(1, dtype=np.int32))
        filled = np.zeros((rank, max(64, inputs)), np.int8)
        filled[:, :inputs] = a
        rows.append(filled.ravel())
        inner_starts[m, :rank] = -structures.OFFSET * a.sum(1, dtype=np.int32)
        places = (layout.tensors[f"{name}.{factor}"] for factor in "AB")
        signs[m] = [bit >> 3 for t in places for bit in (t.a, t.b)]
    arrays = (number, *_joined(panels), *_joined(starts), *_joined(rows), inner_starts, signs)
    addresses = (array.ctypes.data for array in arrays)
    return AdaptedModel(*model, layout.rank, len(matrices), 0, 0, *addresses), arrays


def _joined(parts):
    """Arrays one after another at the beginning of a cache line, and where each begins."""
    sizes = [part.size for part in parts]
    whole = aligned(sum(sizes), parts[0].dtype)
    np.concatenate(parts, out=whole)
    return whole, np.cumsum([0, *sizes[:-1]])


@cache
def _plan(layout: AdapterShape) -> np.ndarray:
    """(M, 8) int64, see adapter_votes.py."""
    d, layers = layout.base.hidden_size, layout.base.num_layers
    rows, v, x = [], 0, 0
    for name in layout.matrices:
        outputs, inputs = layout.base.tensors[name].shape
        if name == "head.weight":
            layer, column, arrived, credit = layers, 0, -1, votes.HEAD
        else:
            layer, kind = int(name.split(".")[1]), name.split(".")[-1]
            column, arrived = (d * place for place in PLACES[kind])
            own = layer == layers - 1 and ".mlp." in name
            credit = votes.OWN if own else votes.TO_GO
        column += layer * structures.LAYER_INPUTS * d
        rows.append((inputs, outputs, column, layer, arrived, credit, v, x))
        v, x = v + RANKS + outputs, x + inputs + RANKS
    return np.array(rows, np.int64)


def cast_adapter_votes(
    backend, prepared, tokens, states, noise, *, group_size, credit_scale, first_group=0
) -> TracedVotes:
    """See ``kernels.backend``."""
    layout, plan = prepared.adapter, _plan(prepared.adapter)
    model = prepared.model._replace(members=MOVES | KEEPS, shift=4 - noise.sigma_shift)
    clean = backend.clean_noise(noise)
    length = tokens.shape[1] - 1
    pairs_a_group = (length + 1) // 2
    batch = max(1, VOTE_ROWS // 2 // pairs_a_group)
    columns = plan[:, [adapter_votes.INPUTS, adapter_votes.OUTPUTS]].sum() + 2 * RANKS * len(plan)
    z = np.empty(RANKS * int(columns - 2 * RANKS * len(plan)), np.int64)
    states = np.ascontiguousarray(states)  # kernels go by addresses
    states_out = np.empty_like(states)
    scores = np.empty(len(tokens) * group_size, np.int32)
    deviation = 0
    per_block = max(1, backend.members_per_block(prepared.shape, layout) // group_size)
    for g in range(0, len(tokens), batch):
        part = slice(g, g + batch)
        there, groups = tokens[part], len(tokens[part])
        pairs = groups * pairs_a_group
        v_rows = backend.buffer("v", (pairs * int(plan[:, 1].sum() + RANKS * len(plan)),), np.int32)
        x_rows = backend.buffer("x", (pairs * int(plan[:, 0].sum() + RANKS * len(plan)),), np.int32)

        def run(begin, end, g=g, part=part, there=there, pairs=pairs, v_rows=v_rows, x_rows=x_rows):
            block = backend.block(
                prepared.shape, (end - begin) * group_size, length, text=group_size,
                state=group_size, keep=noise.step % group_size, moved=True, traced=True, adapter=layout,
            )  # fmt: skip
            return adapter_votes.run_and_vote_on_factors(
                model, clean, backend.tables, block, there, states[part], states_out[part], begin,
                (first_group + g + begin) * group_size, group_size, credit_scale, plan, pairs,
                v_rows, x_rows, scores[g * group_size : (g + batch) * group_size],
            )  # fmt: skip

        deviation += sum(backend.run(run, backend.spread(groups, per_block, 1)))
        _sum_factors(backend, plan, z, v_rows, x_rows, pairs, add=g > 0)
    return TracedVotes(_without_filling(layout, plan, z), states_out, scores, deviation)


def read_adapter_pairs(backend, prepared, tokens, states, noise) -> tuple[np.ndarray, np.ndarray]:
    """See ``kernels.backend``."""
    model = prepared.model._replace(members=MOVES, shift=4 - noise.sigma_shift)
    clean = backend.clean_noise(noise)
    states = np.ascontiguousarray(states)  # kernels go by addresses
    states_out = np.empty_like(states)
    logits = np.empty((*tokens.shape, 256), np.int8)

    def run(first, last):
        block = backend.block(
            prepared.shape,
            2 * (last - first),
            tokens.shape[1],
            moved=True,
            adapter=prepared.adapter,
        )
        adapter_votes.run_factor_pairs(
            model, clean, backend.tables, block, tokens, states, states_out, 2 * first, logits
        )

    per_block = backend.members_per_block(prepared.shape, prepared.adapter) // 2
    backend.run(run, backend.spread(len(tokens) // 2, per_block, 2))
    return logits, states_out


def _sum_factors(backend, plan, z, v_rows, x_rows, pairs, *, add):
    """The votes' GEMM, as for weights, with ranks filled up to 16."""
    tasks, at = [], 0
    for row in plan.tolist():
        inputs, outputs, v, x = (
            row[adapter_votes.INPUTS],
            row[adapter_votes.OUTPUTS],
            row[adapter_votes.V_BEFORE],
            row[adapter_votes.X_BEFORE],
        )
        tasks.append((at, RANKS, inputs, v, x, 0))
        at += RANKS * inputs
        panels = range(-(-outputs // 64))
        tasks += [(at, outputs, RANKS, v + RANKS, x + inputs, panel) for panel in panels]
        at += outputs * RANKS
    backend.sum_votes(z, tasks, v_rows, x_rows, pairs, add)


def _without_filling(layout: AdapterShape, plan: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(parameters,) int64 of the sums with ranks filled up to 16."""
    parts, at, rank = [], 0, layout.rank
    for inputs, outputs in plan[:, :2].tolist():
        parts.append(z[at : at + rank * inputs])
        at += RANKS * inputs
        parts.append(z[at : at + outputs * RANKS].reshape(outputs, RANKS)[:, :rank].ravel())
        at += outputs * RANKS
    return np.concatenate(parts)
