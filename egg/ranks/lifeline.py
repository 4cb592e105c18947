"""A rank that dies ends the job: sockets between the ranks, which the system closes when a process is gone.

MPI does not report that a peer has died: a rank that waits for it would wait for ever. The ranks form a tree of
connections. A rank that fails in order sends one byte, its exit status, which is passed on to all others. If a
connection closes without this byte, the job has lost a rank: it prints one line and ends.
"""

import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import numpy as np

FAN_OUT = 32  # connections that a rank accepts: 4,096 ranks are three levels
JOIN_SECONDS = 20.0
RECORD = 256  # bytes of a rank's address
TOKEN = 16  # bytes that identify a rank of this job to a peer
LOST = 1  # exit status of a job that lost a rank

# A machine that vanishes closes no connection: after 10 s of silence the system probes it, five times in 25 s.
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 5))


class Lifelines:
    """A rank's connections to its parent and its children in the tree, and the thread that watches them.

    all_gather : gives every rank the records of all, from (RECORD,) uint8 to (size, RECORD) uint8
    one_machine : whether all ranks are on one machine: then nothing listens to the network
    """

    def __init__(self, rank: int, size: int, all_gather: Callable[[np.ndarray], np.ndarray], *, one_machine: bool):
        self.rank, self.size = rank, size
        self._ended = False
        self._peers: dict[socket.socket, int] = {}
        children = range(FAN_OUT * rank + 1, min(size, FAN_OUT * rank + FAN_OUT + 1))
        host = "127.0.0.1" if one_machine else socket.gethostname()
        server, port = None, 0
        if children:
            server = socket.create_server(("127.0.0.1" if one_machine else "", 0), backlog=len(children))
            port = server.getsockname()[1]
        # The token is rank 0's; addresses are exchanged once every rank that accepts connections listens.
        own = secrets.token_bytes(TOKEN) + port.to_bytes(4, "big") + host.encode()
        records = all_gather(np.frombuffer(own[:RECORD].ljust(RECORD, b"\0"), np.uint8))
        token = records[0, :TOKEN].tobytes()
        try:
            if rank:
                self._connect(records[(rank - 1) // FAN_OUT].tobytes(), token)
            if server:
                self._accept(server, children, token)
        except OSError:
            pass  # a rank that cannot be watched is left to the launcher
        finally:
            if server:
                server.close()
        for peer in self._peers:
            _keep_alive(peer)
        threading.Thread(target=self._watch, daemon=True, name="lifelines").start()

    def _connect(self, record: bytes, token: bytes) -> None:
        """Connect to the parent, whose socket already listens."""
        port = int.from_bytes(record[TOKEN : TOKEN + 4], "big")
        host = record[TOKEN + 4 :].rstrip(b"\0").decode()
        parent = socket.create_connection((host, port), timeout=JOIN_SECONDS)
        parent.sendall(token + self.rank.to_bytes(4, "big"))
        self._peers[parent] = (self.rank - 1) // FAN_OUT

    def _accept(self, server: socket.socket, children: range, token: bytes) -> None:
        """Accept the children's connections; a connection without the token is closed."""
        deadline = time.monotonic() + JOIN_SECONDS
        missing = set(children)
        while missing and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            child, _ = server.accept()
            child.settimeout(1.0)
            try:
                greeting = child.recv(TOKEN + 4, socket.MSG_WAITALL)
            except OSError:
                greeting = b""
            number = int.from_bytes(greeting[TOKEN:], "big")
            if secrets.compare_digest(greeting[:TOKEN], token) and number in missing:
                missing.discard(number)
                self._peers[child] = number
            else:
                child.close()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer, number in self._peers.items():
                peer.settimeout(None)
                selector.register(peer, selectors.EVENT_READ, (peer, number))
            while selector.get_map():
                for key, _ in selector.select():
                    peer, number = key.data
                    try:
                        status = peer.recv(1)
                    except OSError:
                        status = b""
                    if not self._ended:
                        self._follow(number, status)
                    selector.unregister(peer)

    def _follow(self, number: int, status: bytes) -> None:
        """End as a peer has ended, and report the loss if no other rank does.

        status : its exit status, one byte; empty if it died
        """
        if status:
            self.leave(status[0])
        # The parent reports a lost rank; rank 1 reports rank 0, which has none.
        if number > self.rank or (number, self.rank) == (0, 1):
            print_error(f"rank {number} of {self.size} has died: the job ends, its last checkpoint stands")
        else:
            time.sleep(1.0)
        self.leave(LOST)

    def leave(self, status: int) -> NoReturn:
        """End this process at once, and with it the other ranks; never returns."""
        for peer in self._peers:
            try:
                peer.send(bytes([status]))
            except OSError:  # it has ended before
                continue
        # Not sys.exit: MPI would wait for the others in its finalisation.
        os._exit(status)

    def end(self) -> None:
        """From now on peers may end; called when this rank's work is done."""
        self._ended = True

    def close(self) -> None:
        """Close the connections; called when all have called ``end``."""
        for peer in self._peers:
            try:
                peer.shutdown(socket.SHUT_RDWR)
            except OSError:  # the peer has closed it before
                continue


def print_error(line: str) -> None:
    """Print one line on standard error, from any thread and any rank."""
    stream = sys.__stderr__
    if stream is not None:
        # On a terminal the cursor may be in the status line of the run.
        stream.write(f"{chr(10) if stream.isatty() else ''}egg: {line}\n")
        stream.flush()


def _keep_alive(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not on every platform
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
