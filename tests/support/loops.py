"""Event loops, and iteration that waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import uvloop

from redfloe import stream_batches
from support.timing import SLACK

#: Seconds that a step may take: pytest-timeout does not end a wait in uvloop.
PATIENCE = 10 * SLACK

#: `iter_stream`, or what has its arguments.
Follow = Callable[..., Iterator[pl.DataFrame]]


@contextmanager
def following(follow: Follow, *arguments: Any, **options: Any) -> Iterator[Iterator[pl.DataFrame]]:
    """Give the iterator; as a block, so that what it is used for is seen."""
    yield follow(*arguments, **options)


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Blocking(Iterator[pl.DataFrame]):
    """The batches of `stream_batches`, each waited for in an event loop that then pauses."""

    def __init__(self, runner: asyncio.Runner, *args: Any, **options: Any) -> None:
        self._runner = runner
        self._batches = stream_batches(*args, **options)

    def __next__(self) -> pl.DataFrame:
        frame = self._runner.run(self._step())
        if frame is None:
            raise StopIteration
        return frame

    async def _step(self) -> pl.DataFrame | None:
        async with asyncio.timeout(PATIENCE):
            return await anext(self._batches, None)
