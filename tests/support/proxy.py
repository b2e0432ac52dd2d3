"""Faults between a client and a server, on a real connection.

`Proxy` stands before a real server and knows where a command and a reply end, so a fault hits
exactly the reply to the command that it names, whatever was pipelined before. `ScriptedServer` is
for replies that no real server can be made to send.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from io import BufferedReader, RawIOBase
from types import TracebackType
from typing import Any, Self

HOST = "127.0.0.1"

Command = tuple[bytes, ...]
#: Which commands are meant: those of a name, those of which this is true, or all.
Which = bytes | Callable[[Command], bool] | None

#: What a client has sent at once arrives at once, up to this number of bytes.
_AT_ONCE = 1024 * 1024

_NO_LINGER = struct.pack("ii", 1, 0)


class _Kind(Enum):
    CUT = auto()
    RESET = auto()
    STALL = auto()
    REPLACE = auto()
    BREAK = auto()


@dataclass
class Fault:
    """What happens to the replies of some commands; `hits` says how often it has happened."""

    kind: _Kind
    size: int
    data: bytes
    which: Which
    skip: int
    times: int | None
    #: Called when it strikes: of a command that is executed, once that is so.
    then: Callable[[], object] | None = None
    #: How much of the command still reaches the server.
    part: float = 1.0
    hits: int = 0

    def strikes(self, command: Command) -> bool:
        """Whether this command is its next victim; counts it if so."""
        if isinstance(self.which, bytes):
            if command[0].upper() != self.which.upper():
                return False
        elif self.which is not None and not self.which(command):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


class _Listener(ABC):
    """Accepts connections on a free port and gives each a thread."""

    def __init__(self) -> None:
        self.connections = 0
        self.commands: list[Command] = []
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def count(self, name: bytes) -> int:
        """How many commands of that name have come so far."""
        with self._lock:
            return sum(command[0].upper() == name.upper() for command in self.commands)

    def start(self) -> Self:
        self._spawn(self._accept)
        return self

    def stop(self) -> None:
        """End all connections and threads."""
        _shut(self._listener)
        for thread in self._threads[:1]:
            thread.join()  # accepts no more
        self.cut_all()
        for thread in self._threads:
            thread.join()
        for open_socket in (self._listener, *self._sockets):
            open_socket.close()

    def cut_all(self) -> None:
        """End the connections that are open now."""
        with self._lock:
            sockets = [*self._sockets]
        for open_socket in sockets:
            _shut(open_socket)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def _serve(self, client: socket.socket) -> None:
        """Talk to a client until either goes."""

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut
            while True:
                client, _ = self._listener.accept()
                self._own(client)
                self.connections += 1
                self._spawn(self._serve, client)

    def _own(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets.append(connection)

    def _spawn(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread


class Proxy(_Listener):
    """Forwards commands and replies between clients and the server at a port.

    Arm faults before or between uses. Of several that fit a command the first armed strikes. In
    each method that arms one, `once_seen` names the command that is hit, or says which it is
    (None: any), `skip` lets that many such commands pass first, and `times` bounds how many are hit
    (None: all). `size` counts the bytes of its reply that still reach the client.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self._target = (HOST, port)
        self._faults: list[Fault] = []
        self._actions: list[tuple[bytes, Callable[[int], object]]] = []
        self._chunk = 0
        self._delay = 0.0
        self._refusals = 0
        #: The bytes of the largest reply that the server has sent so far.
        self.largest_reply = 0
        #: How often clients have sent something: the round trips of those that send little.
        self.round_trips = 0

    def cut_after(
        self,
        size: int,
        *,
        once_seen: Which = None,
        skip: int = 0,
        times: int | None = 1,
        then: Callable[[], object] | None = None,
    ) -> Fault:
        """Close the connection; `size=0` loses the reply to a command that was executed."""
        return self._arm(_Kind.CUT, size, b"", once_seen, skip, times, then)

    def break_off(
        self,
        part: float,
        *,
        once_seen: Which = None,
        skip: int = 0,
        times: int | None = 1,
        then: Callable[[], object] | None = None,
    ) -> Fault:
        """Close the connection once that part of the command, less than 1, is on its way."""
        return self._arm(_Kind.BREAK, 0, b"", once_seen, skip, times, then, part)

    def reset_after(
        self, size: int, *, once_seen: Which = None, skip: int = 0, times: int | None = 1
    ) -> Fault:
        """Reset the connection (RST), so that even bytes already sent may be lost."""
        return self._arm(_Kind.RESET, size, b"", once_seen, skip, times)

    def stall_after(
        self, size: int, *, once_seen: Which = None, skip: int = 0, times: int | None = 1
    ) -> Fault:
        """Send nothing more on that connection, but keep it open."""
        return self._arm(_Kind.STALL, size, b"", once_seen, skip, times)

    def replace_reply(
        self,
        data: bytes,
        *,
        once_seen: Which = None,
        skip: int = 0,
        times: int | None = 1,
    ) -> Fault:
        """Answer with these bytes instead; the command does not reach the server."""
        return self._arm(_Kind.REPLACE, 0, data, once_seen, skip, times)

    def trickle(self, chunk: int, *, delay: float = 0.0) -> None:
        """Send every reply from now on in pieces of that size; 0 ends it."""
        self._chunk, self._delay = chunk, delay

    def refuse(self, times: int) -> None:
        """Close the next connections as soon as they are accepted."""
        self._refusals = times

    def redirect(self, port: int) -> None:
        """Lead new connections to another server, as after a failover behind one address."""
        self._target = (HOST, port)

    def before(self, name: bytes, act: Callable[[int], object]) -> None:
        """Before the n-th command of that name goes on to the server, call `act(n)`; n is from 1.

        So a test can change the data at an exact place in a sequence of commands.
        """
        with self._lock:
            self._actions.append((name.upper(), act))

    def lose(self, name: bytes) -> None:
        """Have the next command of that name not come to the server, and its connection cut."""

        def drop(_: int) -> None:
            self.cut_all()
            self.clear()

        self.replace_reply(b"", once_seen=name)
        self.before(name, drop)

    def clear(self) -> None:
        """Disarm everything. Connections that stall go on stalling."""
        with self._lock:
            self._faults.clear()
            self._actions.clear()
        self._chunk = self._refusals = 0

    def _arm(
        self,
        kind: _Kind,
        size: int,
        data: bytes,
        which: Which,
        skip: int,
        times: int | None,
        then: Callable[[], object] | None = None,
        part: float = 1.0,
    ) -> Fault:
        fault = Fault(kind, size, data, which, skip, times, then, part)
        with self._lock:
            self._faults.append(fault)
        return fault

    def _serve(self, client: socket.socket) -> None:
        if self._refusals > 0:
            self._refusals -= 1
            _shut(client)
            return
        try:
            server = socket.create_connection(self._target)
        except OSError:
            _shut(client)
            return
        self._own(server)
        # None marks the end; a Fault or its absence belongs to one command's reply.
        pending: queue.SimpleQueue[tuple[Fault | None] | None] = queue.SimpleQueue()
        answering = self._spawn(self._answer, client, server, pending)
        try:
            with BufferedReader(_Arriving(self, client), _AT_ONCE) as requests:
                for command, raw in _commands(requests):
                    with self._lock:
                        self.commands.append(command)
                        fault = next((one for one in self._faults if one.strikes(command)), None)
                        actions = [act for name, act in self._actions if name == command[0].upper()]
                    for act in actions:
                        act(self.count(command[0]))
                    if fault is not None and fault.kind is _Kind.BREAK:
                        server.sendall(raw[: int(len(raw) * fault.part)])
                        _shut(server)
                        if fault.then is not None:
                            fault.then()
                        _shut(client)
                        break
                    if fault is None or fault.kind is not _Kind.REPLACE:
                        server.sendall(raw)
                    pending.put((fault,))
        except OSError:
            pass  # either side is gone
        finally:
            pending.put(None)
            # The server must see the client go, also while it blocks on its behalf.
            _shut(server)
            answering.join()
            # With the option set, closing sends RST; until now another thread used the socket.
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 1):
                client.close()

    def _answer(
        self,
        client: socket.socket,
        server: socket.socket,
        pending: queue.SimpleQueue[tuple[Fault | None] | None],
    ) -> None:
        with contextlib.suppress(OSError, EOFError), server.makefile("rb") as replies:
            while (item := pending.get()) is not None:
                [fault] = item
                if fault is not None and fault.kind is _Kind.REPLACE:
                    self._send(client, fault.data)
                    continue
                reply = _reply(replies)
                self.largest_reply = max(self.largest_reply, len(reply))
                if fault is None:
                    self._send(client, reply)
                else:
                    if fault.then is not None:
                        fault.then()
                    self._send(client, reply[: fault.size])
                    if fault.kind is _Kind.STALL:
                        return  # what the client still sends is executed and never answered
                    if fault.kind is _Kind.RESET:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                        client.shutdown(socket.SHUT_RD)  # ends the reading thread, which closes
                        return
                    break
        # A full close could reset the connection, which would take sent bytes back.
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        _shut(server)

    def _send(self, client: socket.socket, data: bytes) -> None:
        if self._chunk <= 0:
            client.sendall(data)
            return
        for start in range(0, len(data), self._chunk):
            client.sendall(data[start : start + self._chunk])
            time.sleep(self._delay)


class _Arriving(RawIOBase):
    """What a client of a proxy sends, as it arrives."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        super().__init__()
        self._proxy, self._client = proxy, client

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._client.recv_into(buffer)
        if size > 0:
            with self._proxy._lock:
                self._proxy.round_trips += 1
        return size


class ScriptedServer(_Listener):
    """Answers each command with the bytes that a function gives; None closes the connection."""

    def __init__(self, answer: Callable[[Command], bytes | None]) -> None:
        super().__init__()
        self._answer = answer

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client.makefile("rb") as requests:
            for command, _ in _commands(requests):
                with self._lock:
                    self.commands.append(command)
                data = self._answer(command)
                if data is None:
                    break
                client.sendall(data)
        _shut(client)


def _commands(requests: BufferedReader[Any]) -> Iterator[tuple[Command, bytes]]:
    """Each command that a client sends: its words, and the bytes that said it."""
    while line := requests.readline():
        raw = [line]
        if line.startswith(b"*"):
            words = []
            for _ in range(int(line[1:])):
                header = requests.readline()
                word = requests.read(int(header[1:]) + 2)
                raw += [header, word]
                words.append(word[:-2])
        else:
            words = line.split()
        if words:
            yield tuple(words), b"".join(raw)


def _reply(replies: BufferedReader) -> bytes:
    """Read one whole reply, with the push frames and attributes before it."""
    raw: list[bytes] = []
    wanted = 1
    while wanted > 0:
        line = replies.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError
        raw.append(line)
        wanted -= 1
        kind, length = line[:1], line[1:-2]
        if kind in b"$=!":
            if (size := int(length)) >= 0:
                body = replies.read(size + 2)
                if len(body) < size + 2:
                    raise EOFError
                raw.append(body)
        elif kind in b"*~":
            wanted += max(int(length), 0)
        elif kind == b"%":
            wanted += 2 * int(length)
        elif kind == b">":
            wanted += int(length) + 1
        elif kind == b"|":
            wanted += 2 * int(length) + 1
    return b"".join(raw)


def _shut(connection: socket.socket) -> None:
    """End a connection both ways, which also wakes a thread that waits on it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
