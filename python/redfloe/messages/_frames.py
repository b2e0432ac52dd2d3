"""Batches as columns, for handlers of frames: checked, defaults filled in, in parts that halve."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import polars as pl

from redfloe.messages._codecs import prefix_of
from redfloe.messages._kinds import Kind, column_of
from redfloe.messages._plan import RESCUED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redfloe.messages._delivery import Delivered
    from redfloe.messages._doubt import Misfit
    from redfloe.messages._plan import Call
    from redfloe.messages._transaction import Transaction


class Part:
    """Rows of a batch as a frame, for one handler."""

    #: They are of many keys.
    key_hash: int | None = None

    def __init__(
        self, batch: Delivered, frame: pl.DataFrame, rows: Sequence[int], call: Call
    ) -> None:
        self.batch = batch
        self.frame = frame
        self.rows = rows
        self.calls = (call,)

    @property
    def tx(self) -> Transaction | None:
        """What the rows are committed with."""
        return self.batch.tx

    @property
    def ids(self) -> list[str]:
        """The entry IDs, for logs."""
        return [self.batch.ids[row] for row in self.rows]

    @property
    def is_settled(self) -> bool:
        """Whether it is known what becomes of all of it."""
        return all(map(self.batch.is_settled, self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def halves(self) -> tuple[Part, Part]:
        """Give the first rows and the rest."""
        middle = len(self.rows) // 2
        first = Part(self.batch, self.frame[:middle], self.rows[:middle], self.calls[0])
        return first, Part(self.batch, self.frame[middle:], self.rows[middle:], self.calls[0])

    def done(self) -> None:
        """Say that the handler is done with it."""
        done = self.batch.all_done(self.rows)
        if self.batch.record is not None:
            self.batch.record.handled(self._of(done))

    def nack(self, delay: Any) -> None:
        """Give all rows back."""
        given = [row for row in self.rows if self.batch.nack(row, delay)]
        if self.batch.record is not None:
            self.batch.record.given_back(self._of(given), delay)

    def fail(self, reason: str) -> None:
        """Move all rows to the dead-letter stream."""
        moved = [row for row in self.rows if self.batch.fail(row, reason)]
        if self.batch.record is not None:
            self.batch.record.failed(self._of(moved), reason)

    def _of(self, rows: Sequence[int]) -> Part:
        """Give some of the rows, to be written down."""
        return Part(self.batch, self.frame, rows, self.calls[0])

    def __repr__(self) -> str:
        return f"{len(self)} rows of {self.batch!r}"


def checked(
    kind: Kind, frame: pl.DataFrame, document: str | None
) -> tuple[pl.DataFrame, dict[int, Misfit]]:
    """Give the columns of a kind, and which rows are no events of it, by their numbers.

    Where events are documents, this is the field that holds them.
    """
    prefix = prefix_of(document)
    misfits = _misfits(kind, frame, document)
    columns = []
    for field in kind.fields:
        column = frame.get_column(prefix + field.name)
        if field.loses_none and column.null_count():
            values = [
                field.fresh_default() if value is None else value for value in column.to_list()
            ]
            column, _ = column_of(field, values)
        columns.append(column.alias(field.name))
    beside = [frame.get_column(name) for name in ("_id", "_ts")]
    return pl.DataFrame([*beside, *columns]), misfits


def _misfits(kind: Kind, frame: pl.DataFrame, document: str | None) -> dict[int, Misfit]:
    prefix = prefix_of(document)
    reasons: dict[int, list[str]] = {}
    names = {field.name for field in kind.fields}
    rescued = frame.get_column(RESCUED)
    broken: set[int] = set()
    if rescued.null_count() < frame.height:
        for row, text in enumerate(rescued.to_list()):
            values = {} if text is None else json.loads(text)
            if document in values:
                broken.add(row)
                reasons[row] = [f"it: {_shown(values[document])} is no JSON object"]
            elif wrong := _wrong(values, names, prefix):
                reasons[row] = wrong
    for field in kind.fields:
        column = frame.get_column(prefix + field.name)
        if field.required and not field.nullable and column.null_count():
            for row in column.is_null().arg_true().to_list():
                given = reasons.get(row, [])
                if row not in broken and not any(one.startswith(f"{field.name}:") for one in given):
                    reasons.setdefault(row, []).append(f"{field.name}: Field required")
    return {row: kind.misfit(why) for row, why in reasons.items()}


def _wrong(rescued: dict[str, Any], names: set[str], prefix: str) -> list[str]:
    """Say which texts do not fit a kind's fields; others are fields of no interest."""
    wrong = []
    for full, text in rescued.items():
        if full == "_ts":
            wrong.append(f"the time {_shown(text)} does not fit")
        if not full.startswith(prefix):
            continue
        path = full.removeprefix(prefix)
        name = path if path in names else re.split(r"[.\[]", path)[0]
        if name in names:
            where = f" ({path})" if path != name else ""
            wrong.append(f"{name}: {_shown(text)} does not fit{where}")
    return wrong


def _shown(text: object) -> str:
    return repr(str(text)[:100])
