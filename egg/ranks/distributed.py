"""Many processes on MPI: each rank's share of the readers, and the few integers they exchange.

A process that no MPI launcher started is ``Alone``: its calls return what they are given, and mpi4py is never
imported. Ranks exchange only integers and bytes, so results depend neither on the number of ranks nor on the order of
sums; nothing is pickled.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np

from egg.errors import EggError
from egg.files import shown
from egg.ranks.lifeline import RECORD, Lifelines, print_error

# Rank and number of ranks, as launchers give them. Slurm's are those of a step: SLURM_NTASKS is the whole job's, also
# in a batch script that is one process.
LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
)
CHUNK = 1 << 18  # votes summed in one call: 2 MB at most, which stay in the cache
MAX_MESSAGE = 2000  # characters: a message may quote any length of a file
GRACE = 2.0  # seconds for rank 0 to report an error that all ranks share
SPIN = 1e-4  # seconds of busy waiting: in most steps the other ranks are about as far
NAP = 2e-4  # seconds between two polls after that: the core is for ranks that compute


def launched() -> tuple[int, int]:
    """This process's rank and the number of ranks, by the launcher's environment; (0, 1) without one."""
    for rank, size in LAUNCHERS:
        try:
            found = int(os.environ[rank]), int(os.environ[size])
        except (KeyError, ValueError):
            continue
        if found[1] > 1:
            return found
    return 0, 1


class Alone:
    """A single process."""

    rank, size, leader = 0, 1, True
    threads: int | None = None
    """Threads for a CPU backend; None: as many as the process may use."""

    def share(self, items: int) -> slice:
        """This rank's slice of ``items`` streams or pairs; the slices follow the order of the ranks."""
        return slice(0, items)

    def add(self, votes: np.ndarray, *numbers: int) -> tuple[int, ...]:
        """Sum votes, in place, and a few numbers over the ranks.

        votes : (parameters,) int32 or int64, contiguous; the sums fit this type
        returns : the sums of the numbers, which fit int64
        """
        return numbers

    def all_gather(self, rows: np.ndarray, items: int) -> np.ndarray:
        """All ranks' rows, in the order of the ranks.

        rows : (this rank's share, ...) int8
        returns : (items, ...) int8
        """
        return rows

    def gather(self, rows: np.ndarray, items: int, first: int | None = None) -> np.ndarray:
        """As ``all_gather``, but on rank 0 only, and with ``first`` only that many rows. Other ranks get their own."""
        return rows[:first]

    def scatter(self, rows: np.ndarray | None, items: int, row: tuple[int, ...]) -> np.ndarray:
        """This rank's share of rank 0's (items, *row) int8; the inverse of ``gather``."""
        assert rows is not None
        return rows

    def broadcast(self, array: np.ndarray | None, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Rank 0's array, on all ranks."""
        assert array is not None
        return array

    def maximum(self, number: int) -> int:
        """The largest of the ranks' numbers, on all ranks."""
        return number

    def lead(self, function: Callable[[], Any]) -> Any:
        """The function's result, a JSON value, on all ranks; only rank 0 calls it."""
        return function()

    def close(self) -> None:
        """Wait until every rank is here; after that each may exit."""

    def exchange_cost(self, seconds: float) -> str:
        """The cost of the exchange since ``reset_cost``, as a sentence; empty for one process.

        seconds : duration of the steps since then
        """
        return ""

    def reset_cost(self) -> None:
        """Reset the cost of the exchange, after the first step, which may compile kernels."""


ALONE = Alone()
_joined: "Ranks | None" = None


class Ranks(Alone):
    """The processes of an MPI job; all make the same calls, in the same order."""

    def __init__(self, MPI):
        self._MPI = MPI
        self._comm = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.leader = self.rank == 0
        node = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = node.Get_rank(), node.Get_size()
        self.threads = _threads(node)
        self.exchanging = self.waiting = 0.0  # seconds
        one_machine = bool(self.maximum(self.local_size) == self.size)
        self.lifelines = Lifelines(self.rank, self.size, self._records, one_machine=one_machine)

    def _records(self, own: np.ndarray) -> np.ndarray:
        records = np.empty((self.size, RECORD), np.uint8)
        self._comm.Allgather(own, records)
        return records

    def _wait(self) -> None:
        """Wait for the slowest rank: meanwhile signals are handled, and the core is free for others."""
        request, soon = self._comm.Ibarrier(), time.perf_counter() + SPIN
        while not request.Test():
            if time.perf_counter() > soon:
                time.sleep(NAP)

    def share(self, items):
        return slice(items * self.rank // self.size, items * (self.rank + 1) // self.size)

    def _shares(self, items: int) -> list[int]:
        return [items * (r + 1) // self.size - items * r // self.size for r in range(self.size)]

    def add(self, votes, *numbers):
        arrived = time.perf_counter()
        self._wait()
        began = time.perf_counter()
        self.waiting += began - arrived
        sums = np.array(numbers, np.int64)
        self._comm.Allreduce(self._MPI.IN_PLACE, sums)
        for at in range(0, len(votes), CHUNK):
            self._comm.Allreduce(self._MPI.IN_PLACE, votes[at : at + CHUNK])
        self.exchanging += time.perf_counter() - began
        return tuple(sums.tolist())

    def _type_of(self, rows: np.ndarray):
        """The MPI type of one row: counted in bytes, a large population would need more than 31 bits."""
        return self._row_type(int(np.prod(rows.shape[1:])))

    def _row_type(self, size: int):
        return self._MPI.BYTE.Create_contiguous(size).Commit()

    def all_gather(self, rows, items):
        began = time.perf_counter()
        out, kind = np.empty((items, *rows.shape[1:]), np.int8), self._type_of(rows)
        mine = np.ascontiguousarray(rows)
        self._comm.Allgatherv([mine, len(mine), kind], [out, self._shares(items), None, kind])
        kind.Free()
        self.exchanging += time.perf_counter() - began
        return out

    def gather(self, rows, items, first=None):
        self._wait()
        left, counts = items if first is None else first, []
        for share in self._shares(items):
            counts.append(min(share, left))
            left -= counts[-1]
        mine, kind = np.ascontiguousarray(rows[: counts[self.rank]]), self._type_of(rows)
        out = np.empty((sum(counts), *rows.shape[1:]), np.int8) if self.leader else rows
        self._comm.Gatherv([mine, len(mine), kind], [out, counts, None, kind] if self.leader else None)
        kind.Free()
        return out

    def scatter(self, rows, items, row):
        self._wait()
        mine = np.empty((self._shares(items)[self.rank], *row), np.int8)
        kind = self._row_type(int(np.prod(row)))
        whole = None
        if self.leader:
            whole = [np.ascontiguousarray(rows), self._shares(items), None, kind]
        self._comm.Scatterv(whole, [mine, len(mine), kind])
        kind.Free()
        return mine

    def broadcast(self, array, shape, dtype):
        self._wait()
        out = np.ascontiguousarray(array) if self.leader else np.empty(shape, dtype)
        flat = out.reshape(-1).view(np.uint8)
        for at in range(0, len(flat), 1 << 30):  # MPI counts have 31 bits
            self._comm.Bcast(flat[at : at + (1 << 30)])
        return out

    def maximum(self, number):
        self._wait()
        largest = np.array([number], np.int64)
        self._comm.Allreduce(self._MPI.IN_PLACE, largest, self._MPI.MAX)
        return int(largest[0])

    def lead(self, function):
        # If this raises, rank 0 reports the error and ends the job, which ends the others' wait here.
        content = json.dumps(function()).encode() if self.leader else b""
        size = self.maximum(len(content))
        content = np.frombuffer(content, np.uint8) if self.leader else None
        return json.loads(self.broadcast(content, (size,), np.uint8).tobytes())

    def close(self):
        self.lifelines.end()
        self._wait()
        self.lifelines.close()

    def reset_cost(self):
        self.exchanging = self.waiting = 0.0

    def exchange_cost(self, seconds):
        if not seconds:
            return f"{self.size} ranks: too few steps to measure the cost of the exchange"
        return (
            f"{self.size} ranks: {self.exchanging / seconds:.1%} of the steps' time went into exchanging votes and "
            f"states, {self.waiting / seconds:.1%} into waiting for the slowest rank"
        )


def join() -> Alone | Ranks:
    """The ranks of this process's MPI job, or ``Alone``.

    Raises EggError, one line, where a launcher started several processes and mpi4py is missing or belongs to another
    MPI: each process would be a run of its own.
    """
    global _joined
    _, size = launched()
    if size == 1:
        return ALONE
    if _joined:
        return _joined
    try:
        from mpi4py import MPI
    # mpi4py raises RuntimeError if there is no MPI library.
    except (ImportError, RuntimeError, OSError) as error:
        raise EggError(
            f"{size} processes were started, but mpi4py cannot be used ({error}): pip install mpi4py, and an MPI "
            "if there is none, or start one process"
        ) from error
    if MPI.COMM_WORLD.Get_size() != size:
        library = MPI.Get_library_version().split(",")[0].split("\n")[0]
        raise EggError(
            f"{size} processes were started, but mpi4py's MPI ({library}) knows of {MPI.COMM_WORLD.Get_size()}: "
            "start them with the mpiexec of the same MPI (under Slurm: srun --mpi=pmi2 or pmix)"
        )
    _joined = Ranks(MPI)
    _bind_gpu(_joined.local_rank)
    return _joined


def silence() -> None:
    """Let only rank 0 print: the output of the others is dropped, except by ``print_error``."""
    rank, size = launched()
    if size > 1 and rank:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def fail(line: str, status: int) -> int:
    """Print in one line why this process, and with it the job, ends; returns the exit status.

    Only rank 0 reports an error that all ranks share, such as a bad flag.
    """
    rank, size = launched()
    line = shown(line, MAX_MESSAGE) if status == 2 else line
    if size == 1:
        with suppress(OSError):  # standard error may be closed
            print(f"egg: {line}", file=sys.stderr)
    elif not rank:
        print_error(line)
    if _joined:
        _leave(_joined, line, status)
    return status


def _leave(ranks: Ranks, line: str, status: int) -> NoReturn:
    if ranks.rank:
        time.sleep(GRACE)  # rank 0's message ends this process meanwhile
        print_error(f"rank {ranks.rank} of {ranks.size}: {line}")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ranks.lifelines.leave(status)


def _threads(node) -> int:
    """The cores this process may use, divided by the number of ranks on its machine that may use the same cores."""
    if hasattr(os, "sched_getaffinity"):
        mine = sorted(os.sched_getaffinity(0))
    else:
        mine = list(range(os.cpu_count() or 1))
    key = np.zeros(1024, np.uint8)  # one bit per core
    for core in mine:
        key[core // 8 % len(key)] |= 1 << core % 8
    keys = np.empty((node.Get_size(), len(key)), np.uint8)
    node.Allgather(key, keys)
    return max(1, len(mine) // int((keys == key).all(1).sum()))


def _bind_gpu(local_rank: int) -> None:
    """Give each rank one of the visible GPUs, in turn, before any library looks for GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        nodes = os.listdir("/dev") if os.path.isdir("/dev") else []
        found = sorted(int(name[6:]) for name in nodes if name.startswith("nvidia") and name[6:].isdigit())
        devices = [str(i) for i in range(len(found))]
    else:
        devices = [device for device in visible.split(",") if device]
    if len(devices) > 1:  # a launcher that binds ranks to GPUs leaves one
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local_rank % len(devices)]
