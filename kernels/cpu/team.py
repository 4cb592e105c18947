"""Threads that share tasks in compiled code: one leads, and helpers look out for what it has for them.

A step of a small model takes half a millisecond, and to wake a thread a twentieth of one, several times a step. So a
helper looks out for a fraction of a millisecond before it sleeps; and tasks are functions at an address, as a call
through Python would wait for its lock. The leader takes tasks too, and waits for no helper that has taken none.

    team    (WORDS,) int64, in cache lines of eight: OPEN whether there are tasks to take, NEXT the number of the next,
            BUSY the helpers that may have one, TASKS and what follows what they are
    task    a kernel (arguments, thread, i): address of the call's structure, number of the thread (the leader's is 0),
            and of the task
"""

import ctypes
import sys
import threading
from functools import cache

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from egg.kernels.cpu import simd
from egg.kernels.cpu.simd import I32, I64, aligned, call, define, load_long
from egg.kernels.cpu.structures import JIT

OPEN, NEXT, BUSY, TASKS, FUNCTION, ARGUMENTS, YIELD, LEAVE, WORDS = 0, 8, 16, 24, 25, 26, 27, 28, 32
LOOKS = 10_000  # that a helper takes before it sleeps: a quarter of a millisecond
PATIENCE = 256  # looks between offers of the core to another thread
TASK, HELPER = (types.int64,) * 3, (types.int64,) * 2
WORD = I64.as_pointer()


def _pause(b):
    if simd.instruction_set != "neon":
        call(b, "llvm.x86.sse2.pause", ir.VoidType())


def _call_yield(b, function):
    kind = ir.FunctionType(I32, [])
    b.call(b.inttoptr(function, kind.as_pointer()), [])


add_atomic = define(
    lambda b, at, v: b.atomic_rmw("add", b.inttoptr(at, WORD), v, "seq_cst"), types.int64, types.int64, types.int64
)  # returns what was there
load_atomic = define(lambda b, at: b.load_atomic(b.inttoptr(at, WORD), "seq_cst", 8), types.int64, types.int64)
store_atomic = define(
    lambda b, at, v: b.store_atomic(v, b.inttoptr(at, WORD), "seq_cst", 8) and None,
    types.void,
    types.int64,
    types.int64,
)
call_yield = define(_call_yield, types.void, types.int64)


@intrinsic
def pause(typing_context):
    """Tell the core that this is a wait."""
    return types.void(), lambda context, b, _, values: _pause(b) or context.get_dummy_value()


@intrinsic
def call_task(typing_context, function, arguments, thread, i):
    """Call the kernel at an address."""

    def codegen(context, b, _, values):
        kind = context.call_conv.get_function_type(types.none, TASK)
        function = b.inttoptr(values[0], kind.as_pointer())
        context.call_conv.call_function(b, function, types.none, TASK, values[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@cache
def task_address(kernel) -> int:
    """Where the machine code of a task is; compiles it if need be."""
    kernel.compile(TASK)
    result = kernel.overloads[TASK]
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def yield_address() -> int:
    """Of the system's function that offers the core to another thread."""
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def new_words() -> np.ndarray:
    """The words of a team without tasks."""
    words = aligned((WORDS,), np.int64)
    words[:] = 0
    words[YIELD] = yield_address()
    return words


# A signal's exception may come between any two lines of Python. So helpers sleep at plain locks: a future, or an event,
# keeps its lock for ever when it is interrupted, and whoever waits for it at the interpreter's end waits for ever too.


def add_helpers(words: np.ndarray, helpers: list, count: int) -> None:
    """Start threads until there are so many helpers: of each the thread, and the lock that it sleeps at."""
    for number in range(len(helpers) + 1, count + 1):
        asleep = threading.Lock()
        asleep.acquire()
        thread = threading.Thread(target=_help, args=(words, asleep, number), daemon=True)
        helpers.append((thread, asleep))  # first: no two have one number, as they would use the same buffers
        thread.start()


def wake(helpers: list) -> None:
    """Have helpers look out; those that do so will once more."""
    for _, asleep in helpers:
        if asleep.locked():
            asleep.release()


def dismiss(words: np.ndarray, helpers: list) -> None:
    """Have helpers end, before the code that they run goes."""
    words[LEAVE] = 1
    wake(helpers)
    for thread, _ in helpers:
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(1)


def _help(words, asleep, number):
    asleep.acquire()
    while not words[LEAVE]:
        look_out(words.ctypes.data, number)
        asleep.acquire()


@njit(**JIT)
def wait_a_little(team, waited):
    """One look more: sometimes another thread gets the core, as the one that is waited for may need it."""
    pause()
    if waited & (PATIENCE - 1) == PATIENCE - 1:
        call_yield(load_long(team + 8 * YIELD))


@njit(**JIT)
def take_tasks(team, thread):
    """Take tasks until there are no more."""
    function, arguments = load_long(team + 8 * FUNCTION), load_long(team + 8 * ARGUMENTS)
    tasks = load_long(team + 8 * TASKS)
    i = add_atomic(team + 8 * NEXT, 1)
    while i < tasks:
        call_task(function, arguments, thread, i)
        i = add_atomic(team + 8 * NEXT, 1)


@njit(**JIT)
def look_out(team, thread):
    """A helper: take tasks whenever there are some, until there have been none for long."""
    waited = 0
    while waited < LOOKS:
        waited += 1
        if load_atomic(team + 8 * OPEN):
            # In this order: the leader closes, and then waits for whoever is busy
            add_atomic(team + 8 * BUSY, 1)
            if load_atomic(team + 8 * OPEN):
                take_tasks(team, thread)
                waited = 0
            add_atomic(team + 8 * BUSY, -1)
        wait_a_little(team, waited)


@njit(**JIT)
def lead(team, phases, arguments):
    """The leader: phases one after another, the tasks of each side by side.

    phases : (phases, 2) int64: address of the task, and how many there are
    arguments : address of what all of them share
    """
    for phase in range(len(phases)):
        function, tasks = phases[phase]
        if tasks == 1:
            call_task(function, arguments, 0, 0)
            continue
        store_atomic(team + 8 * FUNCTION, function)
        store_atomic(team + 8 * ARGUMENTS, arguments)
        store_atomic(team + 8 * TASKS, tasks)
        store_atomic(team + 8 * NEXT, 0)
        store_atomic(team + 8 * OPEN, 1)
        take_tasks(team, 0)
        store_atomic(team + 8 * OPEN, 0)
        waited = 0
        while load_atomic(team + 8 * BUSY):
            waited += 1
            wait_a_little(team, waited)
