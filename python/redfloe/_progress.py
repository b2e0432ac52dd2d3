"""Progress bars for what takes long: by tqdm, in terminals and notebooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType
from typing import Any, Self

import polars as pl

from redfloe._arguments import Request
from redfloe._core import RecordBatch
from redfloe._frame import of_batch
from redfloe._functions import refuse_async
from redfloe._words import counted, readable


class Bar:
    """A bar that shows rows, rows a second, bytes where they are known, and the share that is done.

    The rows in all are estimated by the share, where there is one.
    """

    def __init__(self, title: str, *, total: int | None = None) -> None:
        self._bar: Any = _tqdm()(desc=title, unit=" rows", unit_scale=True, total=total)
        self._rows = 0
        self._bytes = 0.0
        self._first: int | None = None

    def add(self, rows: int, size: float, share: float | None) -> None:
        """Count further rows and their bytes; `share` of all is done."""
        self._bytes += size
        self._bar.set_postfix_str(f"{self._bytes / 1e6:.1f} MB", refresh=False)
        if share:
            self._bar.total = max(round((self._rows + rows) / share), self._rows + rows)
        self.show(self._rows + rows)

    def add_batch(
        self, batch: RecordBatch, bounds: tuple[tuple[int, int], tuple[int, int]] | None
    ) -> None:
        """Count the rows of a batch of a read, where it has them between two IDs."""
        if not len(batch):
            return
        if bounds is None:
            frame = of_batch(batch)
            self.add(frame.height, frame.estimated_size(), None)
            return
        ids = batch.ids()
        self.add_range(of_batch(batch), ids[0], ids[-1], bounds[1][0])

    def add_range(self, frame: pl.DataFrame, first: str, last: str, end: int) -> None:
        """Count the rows of a batch between two IDs, of a read up to the milliseconds `end`.

        The share is that of the time since the first batch's first entry: a read from "-" is one
        from an ID of 1970.
        """
        if self._first is None:
            self._first = milliseconds_of(first)
        share = share_of(last, ((self._first, 0), (end, 0)))
        self.add(frame.height, frame.estimated_size(), share)

    def show(self, rows: int) -> None:
        """Show this number of rows in all."""
        self._bar.update(rows - self._rows)
        self._rows = rows

    def finish(self) -> None:
        """All is done: what was estimated is known."""
        self._bar.total = self._rows
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.finish()
        self.close()


def check_progress(progress: Any) -> None:
    """Refuse what is neither a callable nor a flag, and a bar that cannot be shown."""
    if progress is True:
        _tqdm()
    elif progress is not None and progress is not False:
        refuse_async(progress, "progress", "nobody awaits it")
        if not callable(progress):
            msg = f"progress must be True or a callable, not {type(progress).__name__}"
            raise TypeError(msg)


@contextmanager
def bar_or(
    progress: Callable[[int], object] | bool | None, title: str, *, total: int | None = None
) -> Iterator[Callable[[int], object] | None]:
    """Give what is to be told of the rows that are in: a bar, or the caller's callable."""
    if progress is True:
        with Bar(title, total=total) as bar:
            yield bar.show
    else:
        yield progress if callable(progress) else None


def shown(stream: object) -> str:
    """Give a stream's name for a title; an expression has none."""
    match stream:
        case bytes():
            return repr(readable(stream))
        case str():
            return repr(stream)
    return "many streams"


def shown_of(request: Request) -> str:
    """Give the name of what is read, for a title."""
    many = request["many"]
    if many is None:
        return shown(request["stream"])
    return counted(len(many["streams"]), "stream", "streams")


def check_bar(progress: object, *, is_bounded: bool = True) -> None:
    """Refuse what is no flag, and a bar that cannot be shown."""
    if not isinstance(progress, bool):
        msg = f"progress must be True or False, not {type(progress).__name__}"
        raise TypeError(msg)
    check_progress(progress)
    if progress and not is_bounded:
        msg = "progress shows how far a read of what is there is: not with block_ms or a group"
        raise ValueError(msg)


def with_bar(
    batches: Iterator[RecordBatch],
    title: str,
    bounds: tuple[tuple[int, int], tuple[int, int]] | None,
) -> Iterator[RecordBatch]:
    """Show the progress of a read, where it is between two IDs also the share that is done."""
    with Bar(title) as bar:
        for batch in batches:
            bar.add_batch(batch, bounds)
            yield batch


def share_of(last: str, bounds: tuple[tuple[int, int], tuple[int, int]]) -> float | None:
    """Say how much of a range of IDs lies before its entry `last`, by their milliseconds."""
    (first, _), (end, _) = bounds
    if first >= end:
        return None
    return min(max((milliseconds_of(last) - first) / (end - first), 0.0), 1.0)


def milliseconds_of(entry_id: str) -> int:
    """Give the time in an ID."""
    return int(entry_id.partition("-")[0])


def _tqdm() -> Any:
    try:
        return import_module("tqdm.auto").tqdm
    except ImportError:
        msg = "progress=True shows a bar by tqdm, which is not installed: pip install tqdm"
        raise ModuleNotFoundError(msg, name="tqdm") from None
