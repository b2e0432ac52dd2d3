"""Standard streams as a command finds them: closed ones, and a pipe whose reader goes."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator


class ReaderHasGone(BaseException):
    """A pipe was closed. As a BrokenPipeError typer and rich would end with a code of theirs."""


class _Output(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise ReaderHasGone from None

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise ReaderHasGone from None


@contextmanager
def standard_streams() -> Iterator[None]:
    """Have all three streams; a write to a closed standard output fails as one to a full disk."""
    given: Any = sys.stdin, sys.stdout, sys.stderr  # None where they were closed
    if given[0] is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - for the rest of the process
    if given[1] is None:
        # Not for writing: that nobody gets the rows is a failure.
        closed = io.FileIO(os.open(os.devnull, os.O_RDONLY), "w")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(closed))
    if given[2] is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - the same
    before = sys.stdout
    if not isinstance(before, io.TextIOWrapper):
        yield
        return
    output = _Output(
        cast("IO[bytes]", before.buffer),
        before.encoding,
        "replace",  # frames may hold what its encoding does not
        line_buffering=before.line_buffering,
    )
    sys.stdout = output
    try:
        yield
    finally:
        sys.stdout = before
        with suppress(OSError, ReaderHasGone):  # it was flushed, or nobody wants it
            output.flush()
        with suppress(OSError, ReaderHasGone):
            output.detach()


def drop_output() -> None:
    """Send what is left nowhere. Python would complain about it when it closes standard output.

    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
