"""Tasks that read with an adapter: those of tasks.py once more, of an ``AdaptedModel``."""

import numpy as np
from numba import njit

from egg.kernels.arithmetic import VOCABULARY
from egg.kernels.cpu import structures as st
from egg.kernels.cpu.adapters import AdaptedModel
from egg.kernels.cpu.branches import read_and_credit
from egg.kernels.cpu.forward import run_sequences
from egg.kernels.cpu.simd import store_long
from egg.kernels.cpu.structures import JIT, array_at, load_as
from egg.kernels.cpu.tasks import open_block, open_readers, states_of
from egg.kernels.cpu.team import call_task


@njit(**JIT)
def read_part_adapted(arguments, thread, i):
    """Part i of sequences, from text to logits."""
    call = load_as(st.Reading, arguments)
    model, noise = load_as(AdaptedModel, call.model), load_as(st.NoiseParameters, call.noise)
    block, first = open_block(call, thread, i)
    text = array_at(call.text, (call.streams, call.length), np.uint8)
    logits = array_at(call.logits, (call.streams, call.length, VOCABULARY), np.int8)
    run_sequences(model, noise, load_as(st.Tables, call.tables), block, text, *states_of(call), first, logits)


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
