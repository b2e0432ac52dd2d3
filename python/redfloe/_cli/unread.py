"""A standard output that nobody reads: Ctrl-C and SIGTERM end the process all the same."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds that a process has to end by itself.
_GRACE = 1.0


@contextmanager
def ends_though_unread() -> Iterator[None]:
    """End the process after a signal although a write to standard output waits for its reader.

    Such a write may be in a thread of Polars, which no signal reaches, or in the main one, which
    goes on with it where Polars handles Ctrl-C. No handler written in Python runs then: the
    interpreter itself tells another thread of the signal.
    """
    arrived, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(arrived, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(told)
        watch.join()
        os.close(arrived)


def _watch(arrived: int, ended: threading.Event) -> None:
    while numbers := os.read(arrived, 1):
        if numbers[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        while not ended.wait(_GRACE):
            if not _takes_more():
                os._exit(128 + numbers[0])


def _takes_more() -> bool:
    output = select.poll()
    try:
        output.register(sys.stdout.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # it is closed, or no file
        return True
    return bool(output.poll(0))
