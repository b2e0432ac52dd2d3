"""The command line in a terminal."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import polars as pl
import pytest

import redfloe
from support.server import Server

SCRIPT = "from redfloe.__main__ import main; import sys; sys.exit(main())"
PAGE = Path(__file__).parents[1] / "docs" / "guide" / "command-line.md"


@pytest.fixture
def orders(any_server: Server, stream: str) -> str:
    frame = pl.DataFrame({"sku": ["A", "B"] * 500, "note": ["a longer text, " * 4] * 1000})
    redfloe.write_stream(any_server.url, frame, stream)
    redfloe.read_stream(any_server.url, stream, group="billing", consumer="w1", count=10)
    return stream


@pytest.fixture
def terminal(any_server: Server) -> Iterator[Any]:
    started: list[Any] = []

    def start(*arguments: str, columns: int = 80) -> Any:
        child = pexpect.spawn(
            sys.executable,
            ["-c", SCRIPT, *arguments],
            env={**os.environ, "REDIS_URL": any_server.url, "TERM": "xterm-256color"},
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=20,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def finish(child: Any, code: int = 0) -> str:
    """Wait for the end, and give what came since, without colours."""
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == code, child.before
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", child.before)


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_the_terminal(orders: str, terminal: Any, columns: int) -> None:
    for arguments in (["streams", orders], ["groups", orders], ["lag", orders], ["head", orders]):
        shown = finish(terminal(*arguments, columns=columns))
        assert orders in shown or arguments[0] == "head"
        lines = shown.replace("\r", "").splitlines()
        assert max(len(line) for line in lines) <= columns, arguments


def test_it_asks_before_something_is_lost(any_server: Server, orders: str, terminal: Any) -> None:
    for answer, left in (("n", 1000), ("y", 100)):
        child = terminal("trim", orders, "--maxlen", "100", "--exact")
        child.expect(r"has 1,000 entries; delete all but the newest 100\? \[y/N\]")
        child.sendline(answer)
        shown = finish(child, code=0 if answer == "y" else 1)
        assert ("900 entries" in shown) is (answer == "y")
        assert redfloe.stream_info(any_server.url, orders)["length"].item() == left


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("name", ["top", "lag"])
def test_what_goes_on_until_ctrl_c(orders: str, terminal: Any, name: str, columns: int) -> None:
    more = ["--watch"] if name == "lag" else []
    child = terminal(name, orders, *more, "--interval", "0.2", columns=columns)
    for _ in range(3):
        child.expect(orders)
    child.sendintr()
    shown = finish(child, code=130)
    assert "interrupted" in shown
    assert "Traceback" not in shown
    # The cursor is shown again.
    assert child.before.rindex("\x1b[?25h") > child.before.rfind("\x1b[?25l")


def test_an_export_shows_how_far_it_is(orders: str, terminal: Any, tmp_path: Path) -> None:
    shown = finish(terminal("export", orders, str(tmp_path / "parts")))
    assert "rows" in shown
    assert f"1,000 entries of {orders} exported" in shown.replace("\r\n", "")


@pytest.mark.usefixtures("server_program")
def test_the_commands_of_the_guide(tmp_path: Path) -> None:
    """Each of them works on the streams that the page begins with."""
    text = PAGE.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    page: dict[str, Any] = {}
    exec(compile(blocks[0], str(PAGE), "exec", dont_inherit=True), page)
    environment = {**os.environ, "REDIS_URL": page["url"]}
    ran = 0
    for line in re.findall(r"^\$ redfloe (.*)$", text, re.MULTILINE):
        endless = re.search(r" -f\b| --follow| --watch|^top", line)
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *shlex.split(line, comments=True)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            if endless:
                assert process.stdout.readline(), line
                process.kill()
            else:
                _, error = process.communicate(timeout=60)
                assert process.returncode == 0, (line, error)
        ran += 1
    page["server"].stop()
    assert ran > 15
