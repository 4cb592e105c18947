"""Threads that share tasks: one leads, and helpers look out for what it has for them.

A step of a small model takes half a millisecond, and to wake a thread a twentieth of one, several times a step. So a
helper looks out for a fraction of a millisecond before it sleeps; and the tasks of a step are functions at an address,
as a call through Python would wait for its lock. The leader takes tasks too, and waits for no helper that has taken
none.

    team    (WORDS,) int64, in cache lines of eight: OPEN whether there are tasks to take, NEXT the number of the next,
            BUSY the helpers that may have one, CALLED how often helpers were called back to Python, FUNCTION and
            what follows what the tasks are
    task    a kernel (arguments, thread, i): address of the call's structure, number of the thread (the leader's is 0),
            and of the task
"""

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from egg.kernels.cpu import simd
from egg.kernels.cpu.simd import I32, I64, aligned, call, define, load_long, pointer_to
from egg.kernels.cpu.structures import JIT

OPEN, NEXT, BUSY, CALLED, FUNCTION, ARGUMENTS, TASKS, SLEEP, NAP, WORDS = 0, 8, 16, 24, 32, 33, 34, 35, 36, 40
LOOKS = 4_000  # that a helper takes before it sleeps, and the leader before it naps: a tenth of a millisecond
NAP_MICROSECONDS = 20
TASK, HELPER = (types.int64,) * 3, (types.int64,) * 3
WORD = I64.as_pointer()


def _pause(b):
    if simd.instruction_set != "neon":
        call(b, "llvm.x86.sse2.pause", ir.VoidType())


def _call_sleep(b, function, duration):
    kind = ir.FunctionType(I32, [I32])
    b.call(b.inttoptr(function, kind.as_pointer()), [b.trunc(duration, I32)])


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
call_sleep = define(_call_sleep, types.void, types.int64, types.int64)


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


def new_words() -> np.ndarray:
    """The words of a team without tasks."""
    words = aligned((WORDS,), np.int64)
    words[:] = 0
    # The system's function that sleeps; on Windows, which sleeps for a millisecond at least, it lets others go first
    sleep = ctypes.WinDLL("kernel32").Sleep if sys.platform == "win32" else ctypes.CDLL(None).usleep
    words[SLEEP] = ctypes.cast(sleep, ctypes.c_void_p).value or 0
    words[NAP] = 0 if sys.platform == "win32" else NAP_MICROSECONDS
    return words


class Helper:
    """A thread beside the leader's."""

    # A signal's exception may come between any two lines of Python. So helpers sleep at plain locks: a future, or an
    # event, keeps its lock for ever when it is interrupted, and whoever waits for it at the interpreter's end waits for
    # ever too.

    def __init__(self, words: np.ndarray, number: int):
        self.asleep = threading.Lock()
        self.asleep.acquire()
        self.calls: list = []  # what it is asked for next: a function, and the lock that it opens when it has run
        self.leaves = False
        self.thread = threading.Thread(target=self._help, args=(words, number), daemon=True)

    def wake(self) -> None:
        """Have it look out; if it does so, it will once more."""
        if self.asleep.locked():
            self.asleep.release()

    def _help(self, words, number):
        seen = 0  # calls, of all helpers
        while True:
            self.asleep.acquire()
            looking = True
            while looking and not self.leaves:
                look_out(words.ctypes.data, number, seen)
                before, seen = seen, words[CALLED]
                looking = before != seen
                if self.calls:
                    looking = self._answer()
            if self.leaves:
                return

    def _answer(self) -> bool:
        """Run what it is asked for, unless the leader has done it meanwhile."""
        try:
            function, done = self.calls.pop()
        except IndexError:
            return False
        try:
            function()
        finally:
            done.release()
        return True


class Team:
    """The threads of a backend. One thread leads at a time: ``lock`` is the leader's, who takes it around ``share``."""

    def __init__(self, threads: int):
        self.threads, self.words, self.helpers = threads, new_words(), []
        self.lock = threading.Lock()
        weakref.finalize(self, _dismiss, self.helpers)  # also at the interpreter's end

    def some(self, count: int) -> list[Helper]:
        """So many helpers, at most one less than threads; started, if need be."""
        count = min(count, self.threads - 1)
        if count > len(self.helpers):
            look_out.compile(HELPER)  # here, not in a thread that nobody waits for
        while count > len(self.helpers):
            helper = Helper(self.words, len(self.helpers) + 1)
            self.helpers.append(helper)  # first: no two have one number, as they would use the same buffers
            helper.thread.start()
        return self.helpers[: max(0, count)]

    def share(self, structure: np.ndarray, *phases) -> None:
        """Phases of tasks, one after another, on all threads. The caller holds the lock.

        structure : int64, what the tasks share, see tasks.py
        phases : of each the task and how many there are
        """
        for helper in self.some(max(count for _, count in phases) - 1):
            helper.wake()
        of_tasks = np.array([(task_address(task), n) for task, n in phases])
        lead(pointer_to(self.words), of_tasks, pointer_to(structure))

    def run(self, function: Callable, tasks: Sequence[Iterable]) -> list:
        """function(*task) for all tasks, which go through Python; their results in order."""
        if self.threads == 1 or len(tasks) < 2:
            return [function(*task) for task in tasks]
        results, waiting, errors = [None] * len(tasks), iter(range(len(tasks))), []  # one takes a number at a time

        def work():
            try:
                for i in waiting:
                    results[i] = function(*tasks[i])
            except BaseException as error:  # the leader raises it
                errors.append(error)

        with self.lock:
            asked = []
            try:
                for helper in self.some(len(tasks) - 1):
                    done = threading.Lock()
                    done.acquire()
                    helper.calls.append((work, done))
                    asked.append((helper, done))
                self.words[CALLED] += 1
                for helper, _ in asked:
                    helper.wake()
                work()
            finally:
                for helper, done in asked:
                    try:
                        helper.calls.pop()  # it has not begun
                    except IndexError:
                        done.acquire()
        if errors:
            raise errors[0]
        return results


def _dismiss(helpers: list[Helper]) -> None:
    """Have helpers end, before the code that they run goes."""
    for helper in helpers:
        helper.leaves = True
        helper.wake()
    for helper in helpers:
        if helper.thread.is_alive() and helper.thread is not threading.current_thread():
            helper.thread.join(1)


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
def look_out(team, thread, seen):
    """A helper: take tasks whenever there are some, until there have been none for long, or helpers are called.

    seen : calls that it knows of
    """
    waited = 0
    while waited < LOOKS and load_atomic(team + 8 * CALLED) == seen:
        waited += 1
        if load_atomic(team + 8 * OPEN):
            # In this order: the leader closes, and then waits for whoever is busy
            add_atomic(team + 8 * BUSY, 1)
            if load_atomic(team + 8 * OPEN):
                take_tasks(team, thread)
                waited = 0
            add_atomic(team + 8 * BUSY, -1)
        pause()


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
            if waited < LOOKS:
                pause()
            else:  # the helper may be waiting for a core: it gets this one
                call_sleep(load_long(team + 8 * SLEEP), load_long(team + 8 * NAP))
