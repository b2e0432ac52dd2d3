"""One write of a frame, in either world. All go through here, which `redfloe.telemetry` watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redfloe import _core
from redfloe._event_loop import done, stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from redfloe._core import RedisConnection
    from redfloe._write_arguments import Write


def send(
    url: RedisConnection,
    write: Write,
    outcomes: list[_core.Outcome],
    tell: Callable[[int], object] | None,
) -> None:
    """Write a frame, and leave in `outcomes` what became of its rows."""
    _core.write_stream(url, write.frame, write.request, outcomes, tell)


async def send_async(
    url: RedisConnection, write: Write, tell: Callable[[int], object] | None
) -> tuple[_core.Outcome, BaseException | None]:
    """Do the same in an event loop, as `ended` does."""
    return await ended(_core.start_write_stream(url, write.frame, write.request), tell)


async def ended(
    task: _core.Task[_core.Outcome], tell: Callable[[int], object] | None
) -> tuple[_core.Outcome, BaseException | None]:
    """Wait for a write, and give what interrupted the wait: then the write was stopped.

    A coroutine that is dropped drops its write too.
    """
    import asyncio

    def look() -> object:
        return None if tell is None else tell(task.rows_written)

    try:
        await done(task, None if tell is None else look)
    except (asyncio.CancelledError, KeyboardInterrupt, Exception) as raised:  # noqa: BLE001 (the caller raises it)
        task.stop()
        return await stopped(task), raised
    return task.result(), None
