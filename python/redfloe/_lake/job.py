"""The work of an archive: entries come, go into files or a table, and are trimmed afterwards.

It is written once, as coroutines, which an event loop awaits; without one they are run by
`without_waiting`, because nothing suspends them then.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

import polars as pl

from redfloe import _core
from redfloe._arguments import Request, make_request
from redfloe._errors import (
    DataLossError,
    NoStreamError,
    RedisConnectionError,
    RedisTimeoutError,
)
from redfloe._event_loop import completed, in_thread
from redfloe._frame import of_batch
from redfloe._ids import entry_id
from redfloe._lake.result import ArchiveResult
from redfloe._reading.batches import AsyncBatchIterator, BatchIterator
from redfloe._reading.offsets import as_pair, pair_after
from redfloe._reading.scan import sampled, schema_of
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._lake.columns import Columns
    from redfloe._lake.ranges import Range

T = TypeVar("T")

#: The bounds of a stream that has no entries to read.
_NOTHING = ((0, 1), (0, 0))

#: The rows of streams.
Batch: TypeAlias = list[tuple[bytes, pl.DataFrame]]


class Loss(NamedTuple):
    """What the server had, when entries after those that are archived were gone."""

    error: DataLossError
    #: The oldest entry that was there then, or the ID after which one could come.
    oldest: tuple[int, int]


class Target(Protocol):
    """Files or a table, which say up to where each stream is in them."""

    positions: dict[bytes, str]
    schema: pl.Schema

    def open(self) -> None:
        """Look what there is, and keep others from writing."""

    def look(self) -> None:
        """Look what there is."""

    def close(self) -> None:
        """Let others write."""

    def scan(self, stream: bytes) -> pl.LazyFrame | None:
        """Scan what there is of a stream, as of `look`; None where nothing is."""

    def partitions(self) -> list[pl.Expr]:
        """Give the partitions of rows, as `scan` has them."""

    def stored(self, dtype: Any) -> Any:
        """Give the dtype that a dtype has once it is stored."""

    def claimed(self) -> Iterable[tuple[bytes, str, Range]]:
        """Give what was to be written and may not have been."""

    def add_claimed(self, stream: bytes, name: str, range_: Range, rows: pl.DataFrame) -> None:
        """Write that."""

    def add(self, batch: Iterable[tuple[bytes, pl.DataFrame]]) -> None:
        """Store rows of streams, each of which comes once; move the positions."""


class World(Protocol):
    """How to wait: in an event loop, or without one."""

    async def wait(self, operation: _core.Operation[T], /) -> T:
        """Give what an operation comes to."""

    async def on_disk(self, act: Callable[[], T], /) -> T:
        """Do something that takes its time, to its end."""

    async def next(self, batches: Any, /) -> pl.DataFrame | None:
        """Give the next batch, or None."""

    async def close(self, batches: Any, /) -> None:
        """End the reading."""

    def batches(self, url: RedisConnection, request: Request, /, *, follow: bool) -> Any:
        """Begin to read."""


class Blocking:
    """Without an event loop."""

    async def wait(self, operation: _core.Operation[T]) -> T:
        """Give what an operation comes to."""
        return operation.wait()

    async def on_disk(self, act: Callable[[], T]) -> T:
        """Do something that takes its time."""
        return act()

    def batches(self, url: RedisConnection, request: Request, *, follow: bool) -> BatchIterator:
        """Begin to read."""
        return BatchIterator(_core.BatchReader(url, request, follow=follow), url, request)

    async def next(self, batches: BatchIterator) -> pl.DataFrame | None:
        """Give the next batch, or None."""
        return next(batches, None)

    async def close(self, batches: BatchIterator) -> None:
        """End the reading."""
        batches.close()


class InEventLoop:
    """In an event loop, which nothing holds up."""

    async def wait(self, operation: _core.Operation[T]) -> T:
        """Give what an operation comes to."""
        return await completed(operation.start())

    async def on_disk(self, act: Callable[[], T]) -> T:
        """Do something that takes its time, in a thread; who is cancelled waits for its end."""
        import asyncio

        doing = asyncio.ensure_future(in_thread(act))
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            while not doing.done():
                try:
                    await asyncio.wait([doing])
                except asyncio.CancelledError:
                    continue
            if not doing.cancelled():
                doing.exception()  # of which nobody else asks
            raise

    def batches(
        self, url: RedisConnection, request: Request, *, follow: bool
    ) -> AsyncBatchIterator:
        """Begin to read."""
        return AsyncBatchIterator(_core.AsyncBatchReader(url, request, follow=follow), url, request)

    async def next(self, batches: AsyncBatchIterator) -> pl.DataFrame | None:
        """Give the next batch, or None."""
        return await anext(batches, None)

    async def close(self, batches: AsyncBatchIterator) -> None:
        """End the reading."""
        await batches.aclose()


async def _unless_away(asking: Awaitable[T], otherwise: T) -> T:
    """Ask the server; where it does not answer the reader waits for it, and it is asked again."""
    try:
        return await asking
    except (RedisConnectionError, RedisTimeoutError):
        return otherwise


@dataclass(frozen=True)
class Job:
    """What is archived, where, and how."""

    url: RedisConnection
    streams: Sequence[bytes]
    is_of_several: bool
    target: Target
    columns: Columns
    start_id: EntryIdLike
    until: EntryIdLike | None
    trim_after: int | None
    raises_loss: bool
    #: `make_request`'s arguments about batches.
    batches: dict[str, Any]

    async def run(self, world: World) -> ArchiveResult:
        """Archive until the end, if there is one."""
        target = self.target
        entries, trimmed = 0, 0
        try:
            await world.on_disk(target.open)
            self.columns.begin(target.schema, target.stored)
            if self.columns.is_to_be_inferred:
                await self._infer(world)
            for loss in (await self._lost(world, self.streams)).values():
                raise loss.error
            entries += await self._finish(world)
            trimmed += await self._trim(world)
            ends = await self._newest(world) if self.until == "now" else None
            request = self._endless() if ends is None else await self._bounded(world, ends)
            batches = world.batches(self.url, request, follow=ends is None)
            try:
                while True:
                    lost = await _unless_away(self._lost(world, self.streams), {})
                    frame = await world.next(batches)
                    if frame is None:
                        self._check_ends(ends or {}, lost)
                        break
                    batch = self._by_stream(self.columns.fit(frame))
                    batch, error = self._before_loss(batch, lost)
                    # What was lost while it was waited for.
                    streams = [stream for stream, _ in batch]
                    self._check(batch, await _unless_away(self._lost(world, streams), {}))
                    if batch:
                        await world.on_disk(partial(target.add, batch))
                    if error is not None:
                        raise error
                    entries += frame.height
                    trimmed += await _unless_away(self._trim(world), 0)
            finally:
                await world.close(batches)
        finally:
            await world.on_disk(target.close)
        offsets = {readable(stream): entry for stream, entry in target.positions.items()}
        return ArchiveResult(entries, offsets, trimmed)

    def check(self) -> None:
        """Refuse what cannot be right."""
        end = "+" if self.until in (None, "now") else entry_id(self.until, "until", round_up=False)
        request = self._made_request(start_id=self.start_id, end_id=end, **self.batches)
        try:
            _core.empty_batch(request)
        except ValueError as error:
            text = str(error)
            if not text.startswith("end_id "):
                raise
            msg = f"until {text.removeprefix('end_id ')}"
            raise ValueError(msg) from None
        _core.check_connection(self.url)

    def _made_request(self, *, infers: bool = False, **arguments: Any) -> Request:
        schema, options = self.columns.inferring if infers else self.columns.reading
        streams: Any = self.streams if self.is_of_several else self.streams[0]
        request = make_request(
            streams, takes_several=True, schema=schema, options=options, **arguments
        )
        request["expects_fields"] = False  # some of these are the archive's, and not the caller's
        return request

    def _endless(self) -> Request:
        """Ask for what is there and what comes, after what is archived."""
        request = self._made_request(
            start_id=self.start_id,
            end_id="+" if self.until is None else self.until,
            continue_after_loss=not self.raises_loss,
            **self.batches,
        )
        request["resume_after"] = dict(self.target.positions)
        return request

    async def _newest(self, world: World) -> dict[bytes, str]:
        """Give the newest entry of each stream."""
        keys = [*self.streams]
        newest = await world.wait(_core.stream_offsets(self.url, keys, "$"))
        return dict(zip(keys, newest, strict=True))

    async def _bounded(self, world: World, ends: dict[bytes, str]) -> Request:
        """Ask for what is there up to these ends and not archived."""
        start = entry_id(self.start_id, "start_id", round_up=True)
        before = await world.wait(_core.stream_offsets(self.url, [*ends], start))
        after = {**dict(zip(ends, before, strict=True)), **self.target.positions}
        first = self.streams[0]
        request = self._made_request(
            start_id=f"({after[first]}", end_id=ends[first], **self.batches
        )
        if request["many"] is not None:
            request["many"]["ranges"] = [
                (pair_after(after[key]), as_pair(end))
                if as_pair(after[key]) < as_pair(end)
                else _NOTHING
                for key, end in ends.items()
            ]
        return request

    async def _infer(self, world: World) -> None:
        """Type the fields by a sample, as the other readers do."""
        sample = self.columns.options["infer_schema_length"]
        request = self._made_request(infers=True)
        asking = _core.infer_schema(self.url, sampled(request, sample))
        self.columns.infer(schema_of(request, of_batch(await world.wait(asking)).schema))

    async def _finish(self, world: World) -> int:
        """Write what an archiver that has died was about to; say how many entries."""
        entries = 0
        for stream, name, range_ in await world.on_disk(lambda: [*self.target.claimed()]):
            request = self._made_request(
                start_id=range_.first, end_id=range_.last, batch_size=50_000
            )
            request["stream"], request["many"] = stream, None
            frames = [of_batch(_core.empty_batch(request))]
            batches = world.batches(self.url, request, follow=False)
            while (frame := await world.next(batches)) is not None:
                frames.append(frame)
            rows = self.columns.fit(pl.concat(frames, how="diagonal"))
            if self.is_of_several:
                rows = rows.drop(self.columns.options["stream_column"])
            await world.on_disk(partial(self.target.add_claimed, stream, name, range_, rows))
            entries += rows.height
        return entries

    async def _lost(self, world: World, streams: Iterable[bytes]) -> dict[bytes, Loss]:
        """Look whether entries after those that are archived are gone.

        Some of them may have been read all the same, ahead of time.
        """
        errors = await self._losses(world, streams) if self.raises_loss else {}
        lost = {}
        for stream, error in errors.items():
            try:
                lost[stream] = Loss(error, await self._oldest(world, stream))
            except NoStreamError:
                continue  # as one that was deleted
        return lost

    async def _losses(self, world: World, streams: Iterable[bytes]) -> dict[bytes, DataLossError]:
        """Give the streams that have lost entries after those that are archived, and how."""
        positions = self.target.positions
        wanted = [stream for stream in streams if stream in positions]
        try:
            after = [positions[stream] for stream in wanted]
            if wanted:
                await world.wait(_core.check_offsets(self.url, wanted, after, True))
        except DataLossError as error:
            if len(wanted) == 1:
                return {wanted[0]: error}
        else:
            return {}
        # Which they are: one by one, as this is rare.
        found = [await self._losses(world, [stream]) for stream in wanted]
        return {stream: error for one in found for stream, error in one.items()}

    async def _oldest(self, world: World, stream: bytes) -> tuple[int, int]:
        """Give a stream's oldest entry, or the ID after which one could come."""
        info = of_batch(await world.wait(_core.stream_info(self.url, stream)))
        oldest = info["first_entry_id"].item()
        return pair_after(info["last_generated_id"].item()) if oldest is None else as_pair(oldest)

    def _before_loss(
        self, batch: Batch, lost: dict[bytes, Loss]
    ) -> tuple[Batch, DataLossError | None]:
        """Give the rows that were read before what comes after them was gone; and how that is gone.

        Those that are not there any more were. Others may have been read afterwards, with a gap.
        """
        kept, error = [], None
        for stream, rows in batch:
            loss, before = lost.get(stream), rows
            if loss is not None:
                ids = [as_pair(entry) for entry in rows[self.columns.options["id_column"]]]
                before = rows[: bisect_left(ids, loss.oldest)]
                error = error if before.height == rows.height else loss.error
            if before.height > 0:
                kept.append((stream, before))
        return kept, error

    def _check_ends(self, ends: dict[bytes, str], lost: dict[bytes, Loss]) -> None:
        """Raise where entries up to an end were gone before they were read."""
        for stream, loss in lost.items():
            position = self.target.positions.get(stream, "0-0")
            if as_pair(position) < as_pair(ends.get(stream, "0-0")):
                raise loss.error

    def _check(self, batch: Batch, lost: dict[bytes, Loss]) -> None:
        """Raise where rows were read after what is before them was gone."""
        for stream, rows in batch:
            loss, position = lost.get(stream), self.target.positions.get(stream)
            first = as_pair(rows[self.columns.options["id_column"]][0])
            if loss is not None and first >= loss.oldest:
                raise loss.error
            if position is not None and first <= as_pair(position):
                msg = (
                    f"{readable(stream)!r} is archived up to {position} and was deleted and "
                    "written again, with smaller IDs: archive it to another place"
                )
                raise DataLossError(msg)

    def _by_stream(self, rows: pl.DataFrame) -> Batch:
        if not self.is_of_several:
            return [(self.streams[0], rows)]
        column = self.columns.options["stream_column"]
        keys = {readable(key): key for key in self.streams}
        parts = rows.partition_by(column, as_dict=True, maintain_order=True, include_key=False)
        return [(keys[name], part) for (name,), part in parts.items()]

    async def _trim(self, world: World) -> int:
        """Trim what is archived and old enough, but for the last entry that is archived."""
        if self.trim_after is None:
            return 0
        oldest = (max(0, int(time.time() * 1000) - self.trim_after), 0)
        trimmed = 0
        positions = self.target.positions
        # Another stream now, of which nothing is archived, or gone.
        others = await self._losses(world, positions)
        for stream, position in positions.items():
            if stream in others:
                continue
            minid = "{}-{}".format(*min(oldest, as_pair(position)))
            # As many as the server deletes in one go, again and again, so that it is not held up.
            while deleted := await world.wait(
                _core.trim_stream(
                    self.url, stream, maxlen=None, minid=minid, approximate=True, limit=None
                )
            ):
                trimmed += deleted
        return trimmed
