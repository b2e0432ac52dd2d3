"""Threads for handlers that are not async: the interpreter may end while one hangs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

_Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class Threads:
    """Daemon threads that wait for work, as many as were needed at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = 0
        self._started = 0

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a thread and wait for it; its context variables are the caller's."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        if self._idle == 0:
            self._started += 1
            threading.Thread(
                target=self._work, name=f"{self._name}-{self._started}", daemon=True
            ).start()
        else:
            self._idle -= 1
        self._jobs.put((lambda: context.run(function, *args), future, loop))
        try:
            return await future
        finally:
            # Also where the wait was cancelled: then the thread still runs, and is not idle.
            if future.done() and not future.cancelled():
                self._idle += 1

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            act, future, loop = job
            try:
                result, error = act(), None
            except BaseException as raised:  # noqa: BLE001 - whoever waits gets it
                result, error = None, raised
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_settle, future, result, error)
            del job, act, future, result, error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError(f"the handler raised {error!r}"))
    else:
        future.set_exception(error)
