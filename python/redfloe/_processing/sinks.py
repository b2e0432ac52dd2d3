"""Sinks outside of Redis: rows that appear with a processor's commits, and not without them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import polars as pl

from redfloe._event_loop import in_thread
from redfloe._frame import ArrowStream, as_frame
from redfloe._processing.staging import batch_name
from redfloe._processing.table import Table, table_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from redfloe import _core
    from redfloe._processing.base_transaction import BaseTransaction
    from redfloe._processing.processor import StreamProcessor
    from redfloe._processing.session import Session
    from redfloe._processing.transaction import AsyncTransaction, Transaction

T = TypeVar("T")

#: The processor's table that has a row for each sink: the batch that was committed last. Names that
#: begin with a zero byte are redfloe's own.
_TABLE = "\0sinks"
_COLUMNS: dict[str, Any] = {"sink": pl.String, "batch": pl.String}


@dataclass
class Staged:
    """What was written aside for the transaction in hand."""

    transaction: BaseTransaction
    batch: str
    #: The batch before.
    before: str | None
    #: How often there was something to write.
    writes: int = 0
    #: How many files there are; those of a write that failed, or was cancelled, are no one's.
    files: int = 0
    #: Where the files belong that the commit is to name, by their numbers: those of whole writes.
    #: It is replaced, and never changed: threads look at it.
    targets: dict[int, Path] = field(default_factory=dict)
    #: Of which there is a list on the disk.
    listed: dict[int, Path] | None = None
    #: Files are written one after the other.
    lock: Lock = field(default_factory=Lock)


class Place(Protocol):
    """Where the rows of a processor appear once a commit has named their batch."""

    #: What the processor's table knows it by, once it was opened.
    name: str

    def open(self) -> str: ...
    def stage(
        self,
        batch: str,
        first: int,
        frames: Iterable[pl.DataFrame],
        write: Callable[[pl.DataFrame, Any], object],
    ) -> None: ...
    def write_list(self, batch: str, targets: Mapping[int, Path]) -> None: ...
    def publish(self, batch: str, before: str | None = None) -> None: ...
    def settle(self, batch: str | None, epoch: int, position: str) -> None: ...
    def discard(self, batch: str) -> None: ...


class Sink:
    """Something outside of Redis, in which rows appear with a processor's commits."""

    def __init__(
        self,
        processor: StreamProcessor,
        staging: Place,
        write_parquet: Callable[[pl.DataFrame, Any], object],
    ) -> None:
        self._staging = staging
        self._write_parquet = write_parquet
        self._staged: Staged | None = None
        processor._keep(self)

    @overload
    def write(self, tx: Transaction, df: pl.DataFrame | ArrowStream) -> None: ...
    @overload
    def write(self, tx: AsyncTransaction, df: pl.DataFrame | ArrowStream) -> Awaitable[None]: ...
    def write(self, tx: Any, df: pl.DataFrame | ArrowStream) -> Awaitable[None] | None:
        """Have rows appear once the transaction is committed.

        They are written at once, aside. A transaction may write several times. Without a row
        nothing is written. That of an `AsyncTransaction` is to be awaited; a thread does the
        writing. Where the wait is cancelled nothing of it will appear.

        Parameters
        ----------
        tx : Transaction or AsyncTransaction
            The one in hand, of the sink's processor.
        df : pl.DataFrame, or an object with ``__arrow_c_stream__``
            The rows.

        Raises
        ------
        ValueError
            The transaction is another processor's, or a value cannot be the name of a folder.
        SchemaError
            There is no such column to partition by, or the rows do not fit a Delta table.
        OSError
            The rows cannot be written.
        FencedError
            Another processor of this name has the lane.
        RuntimeError
            The transaction has ended.

        Examples
        --------
        >>> import redfloe
        >>> processor = redfloe.StreamProcessor(
        ...     url, "events", name="lake", on_idle="stop", block_ms=1
        ... )
        >>> sink = redfloe.ParquetSink(processor, "lake")
        >>> processor.run(lambda tx: sink.write(tx, tx.frame))
        """
        session: Session[Any] = tx._session
        return session.resolve(session.sinks.write(self, tx, as_frame(df)))

    def _stage(self, staged: Staged, name: str, frame: pl.DataFrame) -> dict[int, Path]:
        """Write rows aside, for files of this name; say which files belong where."""
        parts = [(folder / name, rows) for folder, rows in self._parts(staged.batch, frame)]
        with staged.lock:
            first = staged.files
            staged.files += len(parts)
            targets = dict(enumerate((target for target, _ in parts), first))
            frames = [rows for _, rows in parts]
            self._staging.stage(staged.batch, first, frames, self._write_parquet)
        return targets

    def _list(self, staged: Staged) -> None:
        """Have a list of all that the commit is to name."""
        with staged.lock:
            targets = staged.targets  # now: a list that comes late must not be an older one
            self._staging.write_list(staged.batch, targets)
            staged.listed = targets

    def _parts(self, batch: str, frame: pl.DataFrame) -> Sequence[tuple[Path, pl.DataFrame]]:
        """Divide rows into those of each folder."""
        raise NotImplementedError


class Sinks:
    """What the sinks of a processor do from the time that it is entered until it is left."""

    def __init__(self, session: Session[Any], sinks: list[Sink]) -> None:
        self._session = session
        self._sinks = sinks
        #: The lane's epoch in which each was seen to be as Redis says. One that a commit changes is
        #: none of them until that is done.
        self._settled: dict[Sink, int] = {}

    async def settle(self, *, until_stopped: bool = False) -> bool:
        """Have all directories be as after the last commit; the lane is held.

        Says whether they are, rather than that the loop was stopped, where it is `until_stopped`.
        """
        stats = self._session.core.stats
        epoch, position = stats.epoch, stats.position
        if epoch is None or position is None or not (todo := self._unsettled(epoch)):
            return True
        batches = await self._load(until_stopped)
        if batches is None:
            return False
        for sink in todo:
            act = partial(_settle, sink, batches, epoch, position)
            await self._on_disk(act, until_stopped=until_stopped)
            self._settled[sink] = epoch
        return True

    def _unsettled(self, epoch: int | None) -> list[Sink]:
        return [sink for sink in self._sinks if epoch is None or self._settled.get(sink) != epoch]

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to settle, as long as the lane is not acquired anew."""
        return not self._unsettled(self._session.core.stats.epoch)

    async def write(self, sink: Sink, tx: BaseTransaction, frame: pl.DataFrame) -> None:
        """Write rows aside, and have the transaction's commit name them."""
        session = self._session
        session.check(tx)
        if sink not in self._sinks:
            msg = "the transaction is of another processor than the sink"
            raise ValueError(msg)
        if frame.is_empty():
            return
        await self.settle()  # a sink that was made after the processor was entered
        table = await session.table(tx, _TABLE, "sink", _COLUMNS, None, None)
        name = sink._staging.name
        staged = sink._staged
        if staged is None or staged.transaction is not tx:
            batch = batch_name(tx._core.range, tx._core.epoch)
            before = table.lookup([name])["batch"][0]
            staged = sink._staged = Staged(tx, batch, before)
        number, staged.writes = staged.writes, staged.writes + 1
        if (turn := tx._core.turn) is not None:
            # There may be several at one place of the stream, of which none is another's.
            number += turn[0] * 1_000
        file = "_".join(tx._core.range) + (f"-{number}" if number else "") + ".parquet"
        targets = await self._on_disk(partial(sink._stage, staged, file, frame))
        session.check(tx)
        # Not where the wait was cancelled: what is listed is what the commit names.
        table.upsert(pl.DataFrame({"sink": [name], "batch": [staged.batch]}))
        staged.targets = staged.targets | targets

    async def prepare(self) -> None:
        """Have lists of what a commit is to name, just before it does."""
        while todo := [
            (sink, staged)
            for sink in self._sinks
            if (staged := sink._staged) is not None
            and staged.targets
            and staged.listed is not staged.targets
        ]:
            for sink, staged in todo:
                await self._on_disk(partial(sink._list, staged))

    def take(self) -> list[tuple[Sink, Staged]]:
        """Give what a commit names that is on its way: from now on nothing of it is deleted here.

        Until it was published, or settled, nobody knows how its directory is.
        """
        taken = []
        for sink in self._sinks:
            staged, sink._staged = sink._staged, None
            if staged is not None and staged.targets:
                taken.append((sink, staged))
                self._settled.pop(sink, None)
        return taken

    async def publish(self, taken: list[tuple[Sink, Staged]]) -> None:
        """Have readers see what the commit that is in has named."""
        for sink, staged in taken:
            await self._apart(partial(sink._staging.publish, staged.batch, staged.before))
            self._settled[sink] = staged.transaction._core.epoch

    def discard(self) -> None:
        """Delete what was written for a transaction that is not going to be committed."""
        for sink in self._sinks:
            staged, sink._staged = sink._staged, None
            if staged is not None:
                sink._staging.discard(staged.batch)

    async def _load(self, until_stopped: bool) -> dict[str, str] | None:
        """Give the batches that were committed last; it fails for one who has lost the lane."""
        session, name = self._session, _TABLE.encode()
        request = table_request("sink", _COLUMNS, known={}, event_time=None, expire_after=None)
        core: _core.Table | None
        if until_stopped:
            core = await session.wait(session.core.load_table_until_stopped(name, request))
        else:
            core = await session.wait(session.core.load_table(name, request, None))
        if core is None:
            return None
        return dict(Table(core, request).frame().select("sink", "batch").iter_rows())

    async def _on_disk(self, act: Callable[[], T], *, until_stopped: bool = False) -> T:
        """Use the disk for a transaction in hand.

        A processor that has superseded this one changes the directory, and deletes what this one
        writes: a failure is a `FencedError` then.
        """
        try:
            return await self._apart(act)
        except Exception:
            await self._load(until_stopped)
            raise

    async def _apart(self, act: Callable[[], T]) -> T:
        """Use the disk, in a thread where there is an event loop."""
        return await in_thread(act) if self._session.is_async else act()


def _settle(sink: Sink, batches: dict[str, str], epoch: int, position: str) -> None:
    sink._staging.settle(batches.get(sink._staging.open()), epoch, position)
