"""What becomes of handlers that do not end when they are cancelled."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from redfloe._log import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: How long a handler that was cancelled may take, in seconds.
LAST = 1.0
#: How long the server may take to be told at the end, in seconds.
LAST_TELL = 5.0

#: Those that nobody waits for, kept by a thread: a coroutine that is thrown away is told to end, as
#: by a cancel, and one that swallows that as well would keep the interpreter from ending.
_left: set[asyncio.Task[None]] = set()
_lock = threading.Lock()
_keeping: list[threading.Thread] = []


def is_cancelled() -> bool:
    """Say whether the running task was cancelled, and what it called has swallowed that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def abandon(tasks: Iterable[asyncio.Task[None]], where: Mapping[str, str | None]) -> None:
    """Let tasks be that go on although they were cancelled: nobody waits for them any more."""
    for task in tasks:
        if task.done():
            continue
        # An event loop that ends waits for all tasks it knows, for ever. The function is asyncio's
        # own: where a later Python lacks it, such a handler keeps its loop from ending.
        unregister = getattr(asyncio.tasks, "_unregister_task", None)
        if unregister is not None:
            unregister(task)
        _keep(task)
        task.add_done_callback(_look)
        log("handler_left", where)


def _keep(task: asyncio.Task[None]) -> None:
    with _lock:
        _left.add(task)
        if not (_keeping and _keeping[-1].is_alive()):  # a forked child has none
            forever = threading.Event()
            thread = threading.Thread(target=lambda _: forever.wait(), args=(_left,), daemon=True)
            thread.start()
            _keeping.append(thread)


def _look(task: asyncio.Task[None]) -> None:
    """Take its exception, which says nothing new: its messages come again."""
    _left.discard(task)
    if not task.cancelled():
        task.exception()
