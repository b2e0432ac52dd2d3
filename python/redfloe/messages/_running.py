"""Workers that run together, and how an app's end is waited for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from redfloe._consuming.handling import can_be_printed
from redfloe._consuming.retry import reason_of
from redfloe._log import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence

    from redfloe.messages._app import App
    from redfloe.messages._exactly_once import ExactlyOnceWorker
    from redfloe.messages._health import Record
    from redfloe.messages._worker import StreamWorker

T = TypeVar("T")


class Stopping:
    """The end of an app, which can be awaited."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        task, self._app._task = self._app._task, None
        if task is not None:
            await task


async def run_all(workers: Sequence[StreamWorker | ExactlyOnceWorker]) -> None:
    """Run workers; the first that fails ends the others, and is what is raised."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if any(not task.done() for task in tasks):
            for worker in workers:
                worker.stop()
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    errors = [error for task in tasks if (error := task.exception()) is not None]
    if errors:
        raise errors[0]


def log_end(task: asyncio.Task[None], where: Mapping[str, str]) -> None:
    """Tell of what ends a started app at once: who awaits its stop may do so much later."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    fields = {**where, "error": reason_of(error)}
    log("app_failed", fields, error if can_be_printed(error) else None)


async def drain_all(
    record: Record, stopping: asyncio.Event, work: Callable[[], Awaitable[None]]
) -> None:
    """Have all that is there worked on, again and again until nothing happens."""
    before = -1
    while (now := record.number) > before and not stopping.is_set():
        before = now
        await work()
        with suppress(TimeoutError):  # until what was given back is to come again
            async with asyncio.timeout(record.pause()):
                await stopping.wait()


def in_new_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine where no event loop is running."""
    if asyncio._get_running_loop() is not None:
        coroutine.close()
        msg = "an event loop is running in this thread: await run_async or drain_async"
        raise RuntimeError(msg)
    return asyncio.run(coroutine)
