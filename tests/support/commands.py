"""Commands of redfloe, each in a process of its own that has imported everything before."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Forks for each order: what a command imports takes ten times as long as what it does.
_FORKS = """
import json, os, sys
import polars, typer, rich.console, rich.table
import redfloe
from redfloe._cli import app, export_directory, live, output, sources, texts
from redfloe.__main__ import main

orders = os.fdopen(os.dup(0), "rb", buffering=0)
answers = os.fdopen(os.dup(1), "wb", buffering=0)
while order := orders.readline():
    order = json.loads(order)
    child = os.fork()
    if child == 0:
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["directory"])
        for number, path in enumerate(order["streams"]):
            opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
            os.dup2(opened, number)
            os.close(opened)
        orders.close()
        answers.close()
        sys.exit(main(order["arguments"]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answers.write(b"%d\\n" % status)
"""


class _Forks:
    """The process that forks, started when it is first asked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        atexit.register(self.stop)

    def run(self, order: Mapping[str, object]) -> int:
        """Have a command run; give its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        answer = self._process.stdout.readline()
        assert answer, "the process that runs commands has ended"
        return int(answer)

    def stop(self) -> None:
        """End it, and with it what waits for an answer that is late."""
        atexit.unregister(self.stop)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


_started: list[_Forks] = []


def run_command(
    *arguments: str, environment: Mapping[str, str], stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``redfloe`` with these arguments, and give what it printed."""
    if not _started:
        _started.append(_Forks())
    with tempfile.TemporaryDirectory() as directory:
        streams = [Path(directory) / name for name in ("stdin", "stdout", "stderr")]
        for stream in streams:
            stream.write_text("")
        if stdin is not None:
            streams[0].write_text(stdin)
        order = {
            "arguments": arguments,
            "environment": {**environment},
            "directory": str(Path.cwd()),
            "streams": [str(stream) for stream in streams],
        }
        try:
            code = _started[0].run(order)
        except BaseException:  # a timeout, say: the answer may come for the next
            _started.pop().stop()
            raise
        _, out, err = (stream.read_bytes().decode() for stream in streams)
    return subprocess.CompletedProcess(arguments, code, out, err)


#: ``redfloe``, for what must be a process of its own.
SCRIPT = "from redfloe.__main__ import main; import sys; sys.exit(main())"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", SCRIPT, *arguments]


def run(
    *arguments: str, url: str, code: int = 0, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``redfloe`` for the server of this URL, and expect this exit code."""
    done = run_command(*arguments, environment={**os.environ, "REDIS_URL": url}, stdin=stdin)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Give what was printed with ``--json``."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def piped(*arguments: str, url: str) -> subprocess.Popen[str]:
    """Start a command whose output a program reads, as it comes."""
    environment = {**os.environ, "REDIS_URL": url}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
