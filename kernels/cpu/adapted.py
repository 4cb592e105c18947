"""Tasks that read with an adapter: those of tasks.py once more, of an ``AdaptedModel``."""

from numba import njit

from egg.kernels.cpu import structures as st
from egg.kernels.cpu.adapters import AdaptedModel
from egg.kernels.cpu.branches import read_and_credit
from egg.kernels.cpu.simd import store_long
from egg.kernels.cpu.structures import JIT, load_as
from egg.kernels.cpu.tasks import open_readers, states_of
from egg.kernels.cpu.team import call_task


@njit(**JIT)
def read_and_vote_adapted(arguments, thread, i):
    """Part i of the readers, from text to votes."""
    call = load_as(st.Step, arguments)
    model, noise = load_as(AdaptedModel, call.model), load_as(st.NoiseParameters, call.noise)
    block, draw, text, row, vectors = open_readers(call, thread, i)
    tables, states = load_as(st.Tables, call.tables), states_of(call)
    score = read_and_credit(model, noise, tables, block, draw, text, *states, row, call.first_row, vectors)
    store_long(call.scores + 8 * i, score)
    call_task(call.vote, arguments, thread, i)
