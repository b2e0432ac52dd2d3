"""Sinks outside of Redis: files that appear with a processor's commits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import polars as pl

from redfloe._arguments import one_of
from redfloe._errors import SchemaError
from redfloe._event_loop import in_thread
from redfloe._files import hive_folders
from redfloe._frame import ArrowStream, as_frame
from redfloe._processing.staging import Staging, batch_name
from redfloe._processing.table import Table, table_request
from redfloe._schema import as_text

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence

    from redfloe import _core
    from redfloe._processing.processor import StreamProcessor
    from redfloe._processing.session import Session
    from redfloe._processing.transaction import AsyncTransaction, BaseTransaction, Transaction

T = TypeVar("T")

_COMPRESSIONS = ("zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed")

#: The processor's table that has a row for each sink: the batch that was committed last. Names that
#: begin with a zero byte are redfloe's own.
_TABLE = "\0sinks"
_COLUMNS: dict[str, Any] = {"sink": pl.String, "batch": pl.String}


@dataclass
class _Staged:
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


class ParquetSink:
    """A directory of Parquet files that a `StreamProcessor` writes, each row exactly once.

    What `write` is given appears with the commit of the transaction, and not without it: it is
    written aside, the commit names it, and then its files are moved to their place. A crash at any
    instant, a commit whose reply was lost, or a second processor of the name leave no row twice,
    and none missing. Where a process dies after its commit and before its files are moved, the next
    processor of the name moves them, as soon as it has the lane. A handler does not have to give
    the same rows when a batch comes again.

    A batch's files are called ``<begin>_<end>.parquet``, after the positions between which it is.
    They are never changed, so readers may scan the directory at any time, by
    ``pl.scan_parquet("sales/**/*.parquet")``, and move or delete what they are done with. The
    folder ``_redfloe`` in it is the sink's own. All processors of the name have to see the same
    directory, which needs one file system with atomic renames and links: a disk, or NFS.

    Parameters
    ----------
    processor : StreamProcessor
        Whose batches are written. It settles what is left to do when it acquires its lane.
    path : str or path
        The directory. It is made if it is missing; one that holds other files is refused.
    partition_by : str or sequence of str, default ()
        Columns by whose values rows are divided into folders, ``day=2026-11-26``, as Hive does. The
        files do not have these columns; readers take them from the path.
    compression : {"zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed"}, default "zstd"
        As for `polars.DataFrame.write_parquet`.

    Raises
    ------
    DataLossError
        From the processor's loop: the directory holds rows of entries that the processor is to read
        again, because the server has lost commits or it was reset; or it lacks the batch that was
        committed last. The message says what to do.
    ValueError
        At once, where the processor has a `group`: its batches do not come again as they were. From
        the processor's loop: the directory is another processor's, or holds other files.
    OSError
        From `write`, and from the loop before a commit, or once it is in: the files cannot be
        written, listed or moved.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> processor = redfloe.StreamProcessor(
    ...     url, "events", name="lake", on_idle="stop", block_ms=1
    ... )
    >>> sink = redfloe.ParquetSink(processor, "lake", partition_by="action")
    >>> with processor:
    ...     for tx in processor:
    ...         sink.write(tx, tx.frame)
    >>> found = pl.scan_parquet("lake/**/*.parquet", hive_partitioning=True)
    >>> found.select("action", "user_id").sort("action").collect().rows()
    [('click', 'user_1'), ('view', 'user_2')]
    """

    def __init__(
        self,
        processor: StreamProcessor,
        path: str | os.PathLike[str],
        *,
        partition_by: str | Sequence[str] = (),
        compression: Literal["zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed"] = "zstd",
    ) -> None:
        one_of(compression, "compression", *_COMPRESSIONS)
        keys = [partition_by] if isinstance(partition_by, str) else list(partition_by)
        self._partition_by = [as_text(key, "partition_by") for key in keys]
        self._write_parquet = partial(pl.DataFrame.write_parquet, compression=compression)
        self._staging = Staging(Path(path), processor._where)
        self._staged: _Staged | None = None
        processor._keep(self)

    def __repr__(self) -> str:
        by = f", partition_by={self._partition_by}" if self._partition_by else ""
        return f"{type(self).__name__}({str(self._staging.path)!r}{by})"

    @overload
    def write(self, tx: Transaction, df: pl.DataFrame | ArrowStream) -> None: ...
    @overload
    def write(self, tx: AsyncTransaction, df: pl.DataFrame | ArrowStream) -> Awaitable[None]: ...
    def write(self, tx: Any, df: pl.DataFrame | ArrowStream) -> Awaitable[None] | None:
        """Have rows be in the directory once the transaction is committed.

        They are written to the disk at once, aside. A transaction may write several times; each
        time makes a file, or one for each partition. Without a row nothing is written. That of an
        `AsyncTransaction` is to be awaited; a thread does the writing. Where the wait is cancelled
        nothing of it will be in the directory.

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
            There is no such column to partition by.
        OSError
            The files cannot be written.
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

    def _stage(self, staged: _Staged, name: str, frame: pl.DataFrame) -> dict[int, Path]:
        """Write rows aside, for files of this name; say which files belong where."""
        parts = [(folder / name, rows) for folder, rows in self._parts(frame)]
        with staged.lock:
            first = staged.files
            staged.files += len(parts)
            targets = dict(enumerate((target for target, _ in parts), first))
            frames = [rows for _, rows in parts]
            self._staging.stage(staged.batch, first, frames, self._write_parquet)
        return targets

    def _list(self, staged: _Staged) -> None:
        """Have a list of all that the commit is to name."""
        with staged.lock:
            targets = staged.targets  # now: a list that comes late must not be an older one
            self._staging.write_list(staged.batch, targets)
            staged.listed = targets

    def _parts(self, frame: pl.DataFrame) -> list[tuple[Path, pl.DataFrame]]:
        """Divide rows into the folders of their partitions."""
        keys = self._partition_by
        if not keys:
            return [(Path(), frame)]
        for key in keys:
            if key not in frame.columns:
                msg = f"there is no column {key!r} to partition by; the frame has {frame.columns}"
                raise SchemaError(msg)
        if not set(frame.columns) - set(keys):
            msg = f"partition_by leaves no column for the files: the frame has {frame.columns}"
            raise ValueError(msg)
        parts = frame.partition_by(keys, as_dict=True, maintain_order=True, include_key=False)
        return [
            (hive_folders(keys, values, "partition_by"), rows) for values, rows in parts.items()
        ]


class Sinks:
    """What the sinks of a processor do from the time that it is entered until it is left."""

    def __init__(self, session: Session[Any], sinks: list[ParquetSink]) -> None:
        self._session = session
        self._sinks = sinks
        #: The lane's epoch in which each was seen to be as Redis says. One that a commit changes is
        #: none of them until that is done.
        self._settled: dict[ParquetSink, int] = {}

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

    def _unsettled(self, epoch: int | None) -> list[ParquetSink]:
        return [sink for sink in self._sinks if epoch is None or self._settled.get(sink) != epoch]

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to settle, as long as the lane is not acquired anew."""
        return not self._unsettled(self._session.core.stats.epoch)

    async def write(self, sink: ParquetSink, tx: BaseTransaction, frame: pl.DataFrame) -> None:
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
            staged = sink._staged = _Staged(tx, batch, before)
        number, staged.writes = staged.writes, staged.writes + 1
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

    def take(self) -> list[tuple[ParquetSink, _Staged]]:
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

    async def publish(self, taken: list[tuple[ParquetSink, _Staged]]) -> None:
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


def _settle(sink: ParquetSink, batches: dict[str, str], epoch: int, position: str) -> None:
    sink._staging.settle(batches.get(sink._staging.open()), epoch, position)
