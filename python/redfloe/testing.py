"""A pytest plugin: fixtures with a real Redis server of the tests' own.

pytest loads it where redfloe is installed. Nothing more is imported, and nothing started, before a
test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from redfloe._local import LocalServer, LocalURL

__all__ = ["redfloe_server", "redfloe_server_args", "redfloe_url"]

_TIMEOUT = 10.0
#: What empties a server. The first is unknown to those before 7.0, and nobody looks at its reply.
_EMPTY = b"FUNCTION FLUSH\r\nSCRIPT FLUSH\r\nFLUSHALL\r\n"
#: What tests may change beside its data: for these it is started anew.
_SETUP = b"ACL LIST\r\nCONFIG GET *\r\n"


@pytest.fixture(scope="session")
def redfloe_server_args() -> Sequence[str]:
    """Give arguments for the server's program, as for `local_server`; to be overridden."""
    return ()


@pytest.fixture(scope="session")
def _redfloe_running(redfloe_server_args: Sequence[str]) -> Iterator[_Running]:
    """Give one server for each process of tests, which ends with it."""
    import redfloe

    running = _Running(redfloe.local_server(args=redfloe_server_args))
    yield running
    running.server.stop()


@pytest.fixture
def redfloe_server(_redfloe_running: _Running) -> LocalServer:
    """Give a running server that is empty: a `LocalServer`, which a test may stop and start.

    Its configuration and its users are as they were when it started.
    """
    return _redfloe_running.renewed()


@pytest.fixture
def redfloe_url(redfloe_server: LocalServer) -> LocalURL:
    """Give the URL of a running server that is empty."""
    return redfloe_server.url


class _Running:
    """A server that is the same for each test."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        #: The process, and how it was when it had started.
        self._pid: int | None = None
        self._setup: list[object] = []

    def renewed(self) -> LocalServer:
        """Empty the server; before a test, so that one that was interrupted leaves nothing either.

        Where that is not enough it is started anew.
        """
        server = self.server
        if server._process is not None and server.pid == self._pid:
            try:
                *_, flushed, users, settings = self._ask(_EMPTY + _SETUP, 5)
            except OSError:  # it was killed by the test before
                pass
            else:
                if flushed == b"+OK" and [users, settings] == self._setup:
                    return server
        server.stop()
        server.start()
        self._pid, self._setup = server.pid, self._ask(_SETUP, 2)
        return server

    def _ask(self, commands: bytes, number: int) -> list[object]:
        """Send commands; give their replies."""
        import socket

        with socket.create_connection(("127.0.0.1", self.server.port), _TIMEOUT) as connection:
            connection.sendall(commands)
            replies = connection.makefile("rb")
            return [_reply(replies) for _ in range(number)]


def _reply(replies: BinaryIO) -> object:
    """Give a reply: a line as it is, or what it announces."""
    line = replies.readline()
    if not line:
        raise ConnectionError
    kind, announced = line[:1], line[1:].strip()
    if kind == b"*":
        return [_reply(replies) for _ in range(int(announced))]
    return replies.read(int(announced) + 2) if kind == b"$" else line.strip()
