"""The command line in a terminal."""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pexpect
import polars as pl
import pytest

import redfloe
from redfloe._cli.commands.top import Activity
from redfloe._cli.layout import Layout
from redfloe._cli.live import View
from support.commands import SCRIPT
from support.server import Server
from support.timing import SLACK

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

    def start(
        *arguments: str, columns: int = 80, environment: Mapping[str, str] = MappingProxyType({})
    ) -> Any:
        # Workers of pytest-xdist have those of its own.
        around = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
        child = pexpect.spawn(
            sys.executable,
            ["-c", SCRIPT, *arguments],
            env={
                **around,
                "REDIS_URL": any_server.url,
                "TERM": "xterm-256color",
                **environment,
            },
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=20 * SLACK,
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
@pytest.mark.slow
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


@pytest.mark.parametrize("command", ["trim", "dead"])
def test_ctrl_c_at_a_question(orders: str, terminal: Any, command: str) -> None:
    more = ["replay", orders] if command == "dead" else [orders, "--maxlen", "0"]
    child = terminal(command, *more)
    child.expect(r"\[y/N\]")
    child.sendintr()
    assert "interrupted" in finish(child, code=130)


def test_a_key_moves_no_cursor(any_server: Server, terminal: Any, stream: str) -> None:
    key = f"\x1b[31m{stream}\x9b2J\n"
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": [1, 2]}), key)
    for arguments, answer in (
        (["trim", key, "--maxlen", "1", "--exact"], "y"),
        (["dead", "replay", key], "n"),
        (["dead", "list", key + "x"], None),
        (["top", key, "--count", "1"], None),
    ):
        child = terminal(*arguments, columns=200, environment={"TERM": "dumb"})
        if answer is not None:
            child.expect(r"\[y/N\]")
            assert r"\x1b[31m" in child.before
            assert "\x1b[31m" not in child.before
            child.sendline(answer)
        child.expect(pexpect.EOF)
        assert "\x1b[31m" not in child.before
        assert "\x9b" not in child.before


@pytest.mark.parametrize("columns", [20, 40])
@pytest.mark.slow
def test_a_narrow_terminal_keeps_the_names(orders: str, terminal: Any, columns: int) -> None:
    for arguments in (["streams"], ["groups"], ["lag"], ["top", "--count", "1"]):
        shown = finish(terminal(arguments[0], orders, *arguments[1:], columns=columns))
        lines = shown.replace("\r", "").splitlines()
        if arguments[0] != "top":  # which goes back and forth on its screen
            assert max(len(line) for line in lines) <= columns
        assert any(line.strip().startswith("stream") for line in lines), arguments
        assert orders[:5] in shown
    assert "lag" in finish(terminal("lag", orders, columns=40))
    assert "id" in finish(terminal("pending", orders, "billing", columns=20)).split()


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
    # The cursor is shown again, and what was shown last, on the usual screen.
    assert child.before.rindex("\x1b[?25h") > child.before.rfind("\x1b[?25l")
    assert orders in child.before[child.before.rindex("\x1b[?1049l") :]


def test_a_terminal_of_another_size_meanwhile(orders: str, terminal: Any) -> None:
    child = terminal("top", orders, "--interval", "60", columns=200)
    child.expect("length")  # of 80 columns it is left out
    child.setwinsize(24, 80)
    child.expect("entries/s +bytes/s")
    child.sendintr()
    finish(child, code=130)


def test_a_terminal_that_moves_no_cursor(orders: str, terminal: Any) -> None:
    child = terminal(
        "top", orders, "--interval", "0.1", "--count", "2", environment={"TERM": "dumb"}
    )
    child.expect(pexpect.EOF)
    assert child.before.count(orders) == 4
    assert "\x1b" not in child.before


def listing(names: list[str]) -> pl.DataFrame:
    streams = pl.DataFrame(
        {"stream": names, "length": 20_112, "memory": 2_000_000, "entries_added": 5}
    )
    groups = pl.DataFrame(
        {
            "stream": names,
            "lag": 1_234_567,
            "lag_time": dt.timedelta(minutes=59, seconds=31),
            "pending": 35,
            "consumers": 2,
        }
    )
    activity = Activity()
    activity.look(streams, groups, 1.0)
    return activity.look(streams.with_columns(entries_added=1_352), groups, 2.0)


def test_top_has_all_that_it_should_at_80_columns() -> None:
    view = View(listing(["payments:eu-west-1"]), "*", "")
    lines = [line.plain for line in Layout().lines(view, 80, 24, None)]
    head, row = lines[2].split(), lines[4].split()
    assert head == [
        *("stream", "entries/s", "bytes/s", "history", "lag", "lag", "time", "pending", "consumers")
    ]
    assert row == ["payments:eu-west-1", "1,347", "134", "kB", "█", "1.2M", "59m", "31s", "35", "2"]
    wide = [line.plain for line in Layout().lines(view, 200, 24, None)]
    assert "59 min 31 s" in wide[4]
    assert "1,234,567" in wide[4]


@pytest.mark.parametrize("width", [30, 60, 80, 81, 120, 200])
@pytest.mark.parametrize("height", [6, 24, None])
@pytest.mark.parametrize(
    "names", [["é"], ["流" * 70, "a" * 300], [f"tenant:{n}" for n in range(40)]]
)
def test_no_line_is_longer_than_the_terminal_is_wide(
    names: list[str], width: int, height: int | None
) -> None:
    layout = Layout()
    for trouble in (None, "no answer " * 30):
        view = View(listing(names), "a title " * 20, "")
        lines = layout.lines(view, width, height, trouble)
        assert max(line.cell_len for line in lines) <= width
        assert len(lines) <= (height or len(names) + 4)
        if len(lines) - 4 < len(names):
            assert lines[-1].plain == f"{len(names) - len(lines) + 5} more"


def test_columns_do_not_jump() -> None:
    layout = Layout()
    widths = [
        [line.cell_len for line in layout.lines(View(listing(names), "", ""), 120, 24, None)][3]
        for names in (["a" * 20], ["b"], ["a" * 20])
    ]
    assert len({*widths}) == 1


def test_an_export_shows_how_far_it_is(orders: str, terminal: Any, tmp_path: Path) -> None:
    shown = finish(terminal("export", orders, str(tmp_path / "parts")))
    assert "rows" in shown
    assert f"1,000 entries of {orders} exported" in shown.replace("\r\n", "")


def test_tab_completes_in_bash(tmp_path: Path) -> None:
    """As installed by the program itself, for a user of bash."""
    program = tmp_path / "bin" / "redfloe"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{SCRIPT}" "$@"\n')
    program.chmod(0o755)
    bash = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile", "-i"],
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "TERM": "dumb",
            "PS1": "> ",
            "PATH": f"{program.parent}:{os.environ['PATH']}",
        },
        encoding="utf-8",
        timeout=20 * SLACK,
    )
    try:
        bash.sendline("redfloe --install-completion && source ~/.bashrc && echo installed''-now")
        bash.expect("installed-now")
        for typed, completed in [
            ("redfloe gro\t", "groups "),
            ("redfloe export --form\t", "--format "),
            ("redfloe export --format pa\t", "parquet "),
            ("redfloe dead re\t", "replay "),
            ("redfloe export stream ./bi\t", "./bin"),
        ]:
            bash.sendline("cd; echo re''ady")
            bash.expect("ready")
            bash.send(typed)
            bash.expect_exact(f"{typed.rsplit(maxsplit=1)[0]} {completed}")
            bash.sendcontrol("u")
    finally:
        bash.close(force=True)


@pytest.mark.usefixtures("server_program")
def test_the_commands_of_the_guide(tmp_path: Path) -> None:
    """Each of them works on the streams that the page begins with."""
    text = PAGE.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    page: dict[str, Any] = {}
    exec(compile(blocks[0], str(PAGE), "exec", dont_inherit=True), page)
    environment = {**os.environ, "REDIS_URL": page["url"]}
    ran = shown = 0
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
                output, error = process.communicate(timeout=60)
                assert process.returncode == 0, (line, error)
                shown += f"```text\n{output}```\n" in text
        ran += 1
    page["server"].stop()
    assert ran > 15
    assert shown == 2  # the output of `head` and of `sql`; that of `streams` depends on the time


def test_a_server_that_does_not_answer(any_server: Server, orders: str, terminal: Any) -> None:
    """That is said while it lasts, and not only after `response_timeout`."""
    child = terminal("top", orders, "--interval", "0.2")
    child.expect("entries/s")
    any_server.pause()
    try:
        child.expect("not now: no answer for 2 s")
    finally:
        any_server.resume()
    child.expect("entries/s")
    child.sendintr()
    finish(child, 130)
