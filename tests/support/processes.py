"""Python processes that a test talks to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.timing import SLACK

# A busy machine is slow, of which an event loop complains in development mode.
_IMPORTS = """\
import asyncio, json, logging, os, redfloe, sys, threading, time
logging.getLogger("asyncio").setLevel(logging.ERROR)
"""

#: For a script that is told to end at any time: it says that it has begun, and from then on it ends
#: well, also while nothing of ours that takes signals runs in it.
ENDS_WELL = """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(0, flush=True)
"""


@contextmanager
def python(script: str, *args: str, path: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a script, from a file where one is given; with the block it ends, and its children."""
    script = _IMPORTS + textwrap.dedent(script)
    # What is deprecated about forks is not for these scripts to change.
    command = [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning"]
    if path is None:
        command += ["-c", script]
    else:
        path.write_text(script)
        command.append(str(path))
    process = subprocess.Popen(
        [*command, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def hear(process: subprocess.Popen[str]) -> Any:
    """Give its next line, which is JSON."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"the process ended: {process.communicate()[1]}")
    return json.loads(line)


def finish(process: subprocess.Popen[str]) -> None:
    """Let it read a line, and wait for its end, of which there is nothing to say."""
    _, err = process.communicate("\n", timeout=10 * SLACK)
    assert err == ""
    assert process.returncode == 0
