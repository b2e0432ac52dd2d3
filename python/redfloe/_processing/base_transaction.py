"""What transactions of both worlds have in common: their rows, and what is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import polars as pl

from redfloe._checks import as_key, natural, refuse_frame
from redfloe._frame import ArrowStream
from redfloe._schema import as_text
from redfloe._words import counted
from redfloe._write_arguments import NullTexts, Write, make_write
from redfloe._writing.fields import Fields, as_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redfloe import _core
    from redfloe._options import PayloadCompression, PayloadFormat
    from redfloe._processing.session import Session
    from redfloe._processing.state import ProcessorState

#: What can be published: a frame, or entries as mappings of their fields.
Rows: TypeAlias = pl.DataFrame | ArrowStream | Fields | Iterable[Fields]


class BaseTransaction:
    """What transactions of both worlds have in common."""

    def __init__(self, session: Session[Any], core: _core.Transaction) -> None:
        self._session = session
        self._core = core
        self._rows = core.rows()
        #: How often a handler was called with these rows, or with others and these.
        self._tried = 0
        #: It was given an ID, so something outside of Redis may have it as a whole.
        self._has_id = False
        #: It is a part of a batch that was given one before.
        self._cannot_be_part: Exception | None = None
        #: Outputs that are sharded streams, and the fields by which they are divided.
        self._sharded_outputs: list[tuple[bytes, str]] = []
        #: What its handler has raised.
        self._failure: Exception | None = None
        frame, self._source = session.rows_of(core, self._rows)
        #: The rows as a frame, as `read_stream` gives them.
        self.frame: pl.DataFrame = frame

    @cached_property
    def _ids(self) -> list[str]:
        return self._rows.ids()

    @cached_property
    def _counts(self) -> list[int]:
        return self._rows.delivery_counts()

    @cached_property
    def ids(self) -> pl.Series:
        """The entry ID of each row, as String, whether or not the frame has such a column."""
        return pl.Series("_id", self._ids, dtype=pl.String)

    @property
    def state(self) -> ProcessorState:
        """The processor's state, a dict that is saved with the commit: see `ProcessorState`."""
        return self._session.state_of(self)

    def publish(
        self,
        stream: str | bytes | pl.Expr,
        rows: Rows,
        *,
        fields: Sequence[str] | None = None,
        null_values: NullTexts | None = None,
        payload: str | None = None,
        payload_format: PayloadFormat = "json",
        payload_fields: Sequence[str] | None = None,
        payload_compression: PayloadCompression | None = None,
        on_empty_row: Literal["raise", "skip"] = "raise",
        maxlen: int | None = None,
        approximate: bool = True,
        shard_by: str | None = None,
    ) -> None:
        """Have the commit add rows to a stream (XADD, Redis 5.0), one entry per row, in order.

        Values are written as the text that `write_stream` writes, the IDs are the server's. What
        cannot be written is refused here; nothing is sent before the commit.

        Parameters
        ----------
        stream : str, bytes or pl.Expr
            The stream's key; or an expression that gives each row's. In a Redis Cluster it has to
            share the slot of the processor's stream: ``"{sales}:alerts"`` does that of ``"sales"``.
        rows : pl.DataFrame, object with ``__arrow_c_stream__``, mapping, or iterable of mappings
            The entries: a frame, or the fields of one entry, or those of several. Without a row
            nothing is added.
        fields, null_values
            As for `write_stream`, for frames.
        payload, payload_format, payload_fields, payload_compression, on_empty_row
            As for `write_stream`, for frames.
        maxlen : int, optional
            Have the commit shorten the stream to about *n* entries, after all was added (XTRIM). By
            default it is never shortened.
        approximate : bool, default True
            Whether *about* is meant, which is much cheaper for the server (``~``).

        shard_by : str, optional
            In a processor of a sharded stream: `stream` is one as well, of as many shards, and each
            row goes to that which this column says. In a cluster it has to be the shard of the
            batch, as it is where the column has the values by which the input is divided.

        Raises
        ------
        ValueError
            The stream is in another slot of the cluster; the message has a name that would do. Or
            the commit gets too large: process smaller batches, by `batch_size`.
        SchemaError, TypeError
            A column or value has no text form.
        RuntimeError
            The transaction has ended.
        """
        self._session.check(self)
        trim = None if maxlen is None else (natural(maxlen, "maxlen"), bool(approximate))
        given: object = rows
        shards = None if shard_by is None else self._shards(stream, shard_by, trim)
        if isinstance(given, Mapping) and shards is None:
            self._add(stream, [given], trim)
        elif isinstance(given, pl.DataFrame | pl.LazyFrame | pl.Series) or hasattr(
            given, "__arrow_c_stream__"
        ):
            write = make_write(
                given,
                stream,
                fields=fields,
                null_values=null_values,
                payload=payload,
                payload_format=payload_format,
                payload_fields=payload_fields,
                payload_compression=payload_compression,
                on_empty_row=on_empty_row,
                shards=shards,
                shard_by=shard_by,
            )
            self._publish(stream, write, trim)
        elif isinstance(given, Iterable) and shards is None and not isinstance(given, str | bytes):
            self._add(stream, list(given), trim)
        else:
            msg = (
                "rows must be a DataFrame, a mapping of names to values, or several of these, not "
                f"{type(given).__name__}"
            )
            raise TypeError(msg)

    def _shards(self, stream: object, by: str, trim: object) -> int:
        """Give the number of shards that an output has."""
        shard = self._session.shard
        if shard is None:
            msg = "shard_by needs a processor of a sharded stream: only its lanes share their slots"
            raise ValueError(msg)
        if trim is not None:
            msg = "maxlen needs one stream, and shard_by names several"
            raise ValueError(msg)
        self._sharded_outputs.append((as_key(stream, "stream"), by))
        return len(shard.shards.keys)

    def _publish(
        self,
        stream: str | bytes | pl.Expr,
        write: Write,
        trim: tuple[int, bool] | None,
    ) -> None:
        if trim is not None and isinstance(stream, pl.Expr):
            msg = "maxlen needs one stream, not an expression for each row's"
            raise ValueError(msg)
        self._core.publish(write.frame, write.request, trim)

    def _add(
        self,
        stream: str | bytes | pl.Expr,
        entries: list[Fields],
        trim: tuple[int, bool] | None,
    ) -> None:
        key = as_key(stream, "stream")
        pairs = [as_pairs(entry) for entry in entries]
        self._core.add(key, pairs, trim)

    def fail(self, ids: str | Iterable[str] | pl.Series, reason: str) -> None:
        """Have the commit move entries of this batch to the dead-letter stream as well.

        Parameters
        ----------
        ids : str, iterable of str or pl.Series
            The entries' IDs. Their rows stay in `frame`: leave them out of what you make of it.
        reason : str
            Why, as ``_dead_reason``.

        Raises
        ------
        ValueError
            One of them is no entry of this batch, or the processor has no `dead_letter`.
        RuntimeError
            The transaction has ended.
        """
        self._session.check(self)
        if not self._session.has_dead_letter:
            msg = "there is no dead-letter stream; name one: dead_letter=..."
            raise ValueError(msg)
        refuse_frame(ids, "ids")
        named = [ids] if isinstance(ids, str) else [as_text(one, "ids") for one in ids]
        self._core.fail(named, as_text(reason, "reason"), max(self._tried, 1))

    def halves(self) -> tuple[Self, Self]:
        """Give the first rows and the rest, each to be committed by itself.

        A batch that has an ID may be outside of Redis already, as a whole: what the handler raised
        is raised then.
        """
        if self._has_id and self._failure is not None:
            raise self._failure
        middle = (len(self) + 1) // 2
        return self._part(0, middle), self._part(middle, len(self))

    def _part(self, start: int, end: int) -> Self:
        part = type(self)(self._session, self._core.part(start, end))
        part._tried = self._tried
        return part

    def _again(self) -> None:
        """Have nothing to write, as at first."""
        self._core = self._core.part(0, len(self))

    def __len__(self) -> int:
        return self.frame.height

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Give the frame to any library that speaks Arrow's PyCapsule interface."""
        return self.frame.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        _, last = self._core.range
        return f"{type(self).__name__}({counted(len(self), 'entry', 'entries')}, up to {last})"

    def _repr_html_(self) -> str:
        """Show the frame in a notebook, as it shows itself there."""
        return f"<p>{self!r}</p>{self.frame._repr_html_()}"
