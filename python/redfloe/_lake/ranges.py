"""Rows cut at the bounds of partitions, and the ranges of IDs that files are named after.

Within a stream IDs only grow, whatever the server's clock does: after a step back it goes on with
the newest ID. So a partition that is a part of the time of the ID, such as its date, is a range of
IDs, and a batch cut at the bounds of partitions is a sequence of ranges, one after the other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Parts of the time by which files may be divided, and how their values are written.
TIME_PARTS = {
    "year": "%Y",
    "month": "%Y-%m",
    "date": "%Y-%m-%d",
    "day": "%Y-%m-%d",
    "hour": "%Y-%m-%dT%H",
}

#: What their values are to readers of Hive's folders; others are text.
PART_DTYPES: dict[str, Any] = {"year": pl.Int32(), "date": pl.Date(), "day": pl.Date()}

#: The end of the year 9999: later IDs were given by somebody, and tell no time.
_LAST_MILLISECOND = 253_402_300_799_999

_FILE = re.compile(r"(\d+-\d+)_(\d+-\d+)\.parquet")


class Range(NamedTuple):
    """The first and the last entry of a file."""

    first: str
    last: str

    @property
    def file(self) -> str:
        """Give the name of the file."""
        return f"{self.first}_{self.last}.parquet"

    @classmethod
    def of_file(cls, name: str) -> Range | None:
        """Read a file's name; None where it is another kind of file."""
        match = _FILE.fullmatch(name)
        return None if match is None else cls(match[1], match[2])


def is_hidden(name: str) -> bool:
    """Say whether readers leave out a file or folder of this name, such as ``.x`` or ``_tmp``.

    As Hive and Spark do; ``_stream=orders`` is a partition's.
    """
    return name.startswith((".", "_")) and "=" not in name


def time_part(part: str, id_column: str, dtype: Any = None) -> pl.Expr:
    """Give a part of the time of each row's ID; null where an ID tells no time."""
    ms = pl.col(id_column).str.split_exact("-", 1).struct.field("field_0").cast(pl.UInt64)
    known = pl.when(ms <= _LAST_MILLISECOND).then(ms).cast(pl.Int64)
    time = known.cast(pl.Datetime("ms", "UTC"))
    if dtype == pl.Date:
        return time.dt.date().alias(part)
    text = time.dt.strftime(TIME_PARTS[part])
    return (text if dtype is None else text.cast(dtype)).alias(part)


def cut(
    frame: pl.DataFrame, parts: Sequence[str], id_column: str
) -> Iterator[tuple[tuple[str | None, ...], pl.DataFrame]]:
    """Cut a stream's rows, which are in the order of their IDs, into partitions in that order."""
    if not parts:
        yield (), frame
        return
    values = frame.select(time_part(part, id_column) for part in parts)
    ends = values.select(pl.struct(pl.all()).rle_id().alias("run"))["run"]
    start = 0
    for length in ends.rle().struct.field("len"):
        yield values.row(start), frame.slice(start, length)
        start += length
