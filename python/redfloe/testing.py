"""A pytest plugin: fixtures with a real Redis server of the tests' own.

pytest loads it where redfloe is installed. Nothing more is imported, and nothing started, before a
test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redfloe._local import LocalServer, LocalURL

__all__ = ["redfloe_server", "redfloe_server_args", "redfloe_url"]

_TIMEOUT = 10.0
_EMPTY = b"*2\r\n$6\r\nSCRIPT\r\n$5\r\nFLUSH\r\n*1\r\n$8\r\nFLUSHALL\r\n"


@pytest.fixture(scope="session")
def redfloe_server_args() -> Sequence[str]:
    """Give arguments for the server's program, as for `local_server`; to be overridden."""
    return ()


@pytest.fixture(scope="session")
def _redfloe_running(redfloe_server_args: Sequence[str]) -> Iterator[LocalServer]:
    """Give one server for each process of tests, which ends with it."""
    import redfloe

    server = redfloe.local_server(args=redfloe_server_args)
    yield server
    server.stop()


@pytest.fixture
def redfloe_server(_redfloe_running: LocalServer) -> LocalServer:
    """Give a running server that is empty: a `LocalServer`, which a test may stop and start."""
    server = _redfloe_running
    if server._process is not None:
        try:
            _flush(server)
        except OSError:  # it was killed by the test before
            server.stop()
        else:
            return server
    server.start()
    return server


@pytest.fixture
def redfloe_url(redfloe_server: LocalServer) -> LocalURL:
    """Give the URL of a running server that is empty."""
    return redfloe_server.url


def _flush(server: LocalServer) -> None:
    """Empty the server; before a test, so that one that was interrupted leaves nothing either."""
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=_TIMEOUT) as connection:
        connection.sendall(_EMPTY)
        replies = connection.makefile("rb")
        for _ in range(2):
            if (reply := replies.readline()) != b"+OK\r\n":
                raise ConnectionError(reply.decode(errors="replace"))
