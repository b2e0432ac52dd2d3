"""The windows of a processor, between its transactions and its state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from redfloe._errors import DecodeError
from redfloe._frame import as_frame
from redfloe._words import readable

if TYPE_CHECKING:
    from datetime import datetime

    from redfloe._frame import ArrowStream
    from redfloe._processing.base_transaction import BaseTransaction
    from redfloe._processing.session import Session
    from redfloe._processing.table import Table
    from redfloe._processing.windows.definition import Declared, Definition
    from redfloe._processing.windows.machine import Standing, Stepped

#: How what is known of a window is laid out; a newer one is refused.
FORMAT = 1
#: The table of a window is called that and the window's name.
PREFIX = b"window:"


class Window:
    """What has become of a window with a batch: `Transaction.window` gives it.

    Attributes
    ----------
    closed : pl.DataFrame
        The windows that are closed with this transaction, which will not come again: the columns
        ``_lower_boundary`` and ``_upper_boundary`` (exclusive), those of `by`, and the aggregates.
        Publish them, or hand them to a sink; they are gone from the state with the commit.
    late : pl.DataFrame
        The rows that came after all their windows were closed, or have no time, with all columns.
    """

    def __init__(self, definition: Definition, stepped: Stepped, table: Table) -> None:
        self._definition = definition
        self._standing = stepped.standing
        self._table = table
        self.closed = stepped.closed
        self.late = stepped.late

    @property
    def open(self) -> pl.DataFrame:
        """The windows that are open, as they are now, with the columns of `closed`: a live view.

        Raises
        ------
        RuntimeError
            The transaction has ended.
        """
        from redfloe._processing.windows.machine import given

        return given(self._definition, self._table.frame())

    @property
    def watermark(self) -> datetime | None:
        """How far time has come: windows that end by then are closed. None before the first row."""
        if self._standing.watermark is None:
            return None
        time = pl.Series([self._standing.watermark], dtype=pl.Int64)
        watermark: datetime = time.cast(self._definition.boundary).item()
        return watermark

    def __repr__(self) -> str:
        return (
            f"Window(closed={len(self.closed)}, late={len(self.late)}, watermark={self.watermark})"
        )


class Windows:
    """The windows of a processor, from the time that it is entered until it is left."""

    def __init__(self, session: Session[Any]) -> None:
        self._session = session
        #: As they were declared last.
        self._definitions: dict[bytes, Definition] = {}
        #: Those that the transaction in hand has taken.
        self._taken: set[bytes] = set()

    def forget(self) -> None:
        """Know no more what they were."""
        self._definitions.clear()

    def end(self) -> None:
        """Know that the transaction in hand has ended."""
        self._taken.clear()

    def alarms(self) -> tuple[list[tuple[int, int]], bool]:
        """Say when open windows close without rows, as far as the state knows.

        Milliseconds without entries, and a time of the server's clock; and whether some close where
        the loop ends.
        """
        quiet: list[tuple[int, int]] = []
        at_end = False
        for name, saved in self._session.saved.windows().items():
            known = _read(name, saved)
            next_end, idle_ms = known["next_end"], known["idle_close"]
            if next_end is None:
                continue
            at_end = at_end or known["close_at_end"]
            if idle_ms is not None:
                from redfloe._processing.windows.definition import NS_PER

                due = next_end * NS_PER[known["unit"]] + (known["lateness"] or 0)
                quiet.append((idle_ms, min(-(-due // NS_PER["ms"]), 2**63 - 1)))
        return quiet, at_end

    async def window(
        self,
        transaction: BaseTransaction,
        name: str | bytes,
        declared: Declared,
        rows: pl.DataFrame | ArrowStream | None,
    ) -> Window:
        """Have a window take a transaction's rows."""
        from redfloe._processing.windows.definition import define
        from redfloe._processing.windows.machine import Standing, Turn, step

        session = self._session
        known_as = name if isinstance(name, bytes) else str(name).encode()
        if known_as in self._taken:
            msg = (
                f"the window {readable(known_as)!r} has had the rows of this transaction; give it "
                "all of them at once"
            )
            raise ValueError(msg)
        frame = transaction.frame if rows is None else as_frame(rows)
        if transaction._core.turn is not None and frame.is_empty():
            # Without a schema it has no fields, which are text then.
            lacking = [column for column in declared.columns() if column not in frame.columns]
            frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)
        definition = self._definitions.get(known_as)
        if (
            definition is None
            or not definition.declared.is_like(declared)
            or any(frame.schema.get(name) != dtype for name, dtype in definition.rows.items())
        ):
            definition = define(declared, frame.schema)
        text, saved = definition.text, session.saved.window(known_as)
        known = None if saved is None else _read(known_as, saved)
        standing = Standing()
        if known is not None:
            if known["definition"] != text and known["next_end"] is not None:
                raise ValueError(_changed(known_as, known["definition"], text))
            standing = _standing(known, definition)
        self._taken.add(known_as)
        try:
            table = await session.table_of_window(
                transaction, PREFIX + known_as, definition.request
            )
        except BaseException:
            self._taken.discard(known_as)
            raise
        turn = transaction._core.turn
        stepped = step(definition, standing, frame, table, None if turn is None else Turn(*turn))
        session.saved.keep_window(known_as, _written(definition, stepped.standing, text))
        self._definitions[known_as] = definition
        return Window(definition, stepped, table)


def _written(definition: Definition, standing: Standing, text: dict[str, Any]) -> bytes:
    declared = definition.declared
    known = {
        "format": FORMAT,
        "unit": definition.boundary.time_unit,
        "watermark": standing.watermark,
        "next_end": standing.next_end,
        "lateness": declared.lateness,
        "idle_close": declared.idle_close,
        "close_at_end": declared.close_at_end,
        "definition": text,
    }
    return json.dumps(known, separators=(",", ":")).encode()


def _read(name: bytes, saved: bytes) -> dict[str, Any]:
    try:
        known = json.loads(saved)
        if known["format"] > FORMAT:
            msg = (
                f"a newer redfloe has written what is known of the window {readable(name)!r} "
                f"(format {known['format']}); this one reads {FORMAT}"
            )
            raise DecodeError(msg)
        numbers = known["watermark"], known["next_end"], known["lateness"], known["idle_close"]
        is_right = (
            all(number is None or isinstance(number, int) for number in numbers)
            and isinstance(known["close_at_end"], bool)
            and known["unit"] in ("ms", "us", "ns")
            and isinstance(known["definition"], dict)
        )
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, DecodeError):
            raise
        is_right = False
    if not is_right:
        msg = (
            f"what the state knows of the window {readable(name)!r} is not what redfloe writes: "
            f"{saved!r:.60}"
        )
        raise DecodeError(msg)
    found: dict[str, Any] = known
    return found


def _standing(known: dict[str, Any], definition: Definition) -> Standing:
    """Give how far a window was, in the units that it has now."""
    from redfloe._processing.windows.definition import NS_PER
    from redfloe._processing.windows.machine import Standing

    def converted(time: int | None) -> int | None:
        return None if time is None else time * NS_PER[known["unit"]] // definition.ns

    return Standing(converted(known["watermark"]), converted(known["next_end"]))


def _changed(name: bytes, before: dict[str, Any], now: dict[str, Any]) -> str:
    differ = [what for what in now if now[what] != before.get(what) and what != "partials"]
    what = differ[0] if differ else "partials"
    return (
        f"the window {readable(name)!r} has open windows that were begun with another definition "
        f"({what} was {before.get(what)}, and is {now[what]}): what they have so far does not fit "
        "it. Give the changed window another name, or let the open ones close first "
        "(close_at_end=True closes them where on_idle='stop' ends the loop), or drop them with the "
        "state (reset_processor)"
    )
