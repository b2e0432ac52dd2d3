"""Threads for handlers that are not async: the interpreter may end while one hangs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

_Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


#: How long a thread waits for more to do before it ends, in seconds.
IDLE = 10.0


class Threads:
    """Daemon threads that wait a while for work, as many as were needed at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        #: How many wait for work, less those that are about to find some.
        self._idle = 0
        self._started = 0
        self._alive = 0

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a thread and wait for it; its context variables are the caller's."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        with self._lock:
            is_new = self._idle == 0
            if is_new:
                self._started += 1
                self._alive += 1
            else:
                self._idle -= 1
        if is_new:
            name = f"{self._name}-{self._started}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._jobs.put((lambda: context.run(function, *args), future, loop))
        return await future

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        for _ in range(self._alive):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            act, future, loop = job
            try:
                result, error = act(), None
            except BaseException as raised:  # noqa: BLE001 - whoever waits gets it
                result, error = None, raised
            with self._lock:
                self._idle += 1
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_settle, future, result, error)
            del job, act, future, result, error

    def _next(self) -> _Job | None:
        """Wait for work; None where the thread is to end."""
        while True:
            try:
                return self._jobs.get(timeout=IDLE)
            except Empty:
                with self._lock:
                    if self._idle == 0:
                        continue  # something is on its way
                    self._idle -= 1
                    self._alive -= 1
                return None


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError(f"the handler raised {error!r}"))
    else:
        future.set_exception(error)
