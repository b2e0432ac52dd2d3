"""Batches to items: which handlers a message is for, and what becomes of one that is for none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import polars as pl

from redfloe.messages._delivery import Delivered, Item
from redfloe.messages._errors import MisfitError, UnknownTypeError
from redfloe.messages._frames import Part, checked
from redfloe.messages._kinds import Kind, Misfit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redfloe.messages._plan import Route, StreamPlan


#: What is to be raised of which rows.
Problems: TypeAlias = dict[int, Exception]


@dataclass(frozen=True)
class Policy:
    """What becomes of messages that no handler is called with."""

    on_unknown: Literal["ack", "fail", "raise"]
    on_misfit: Literal["dead_letter", "raise"]
    #: Told of those that fail, where an app drains.
    record: Any = None


def decode(
    plan: StreamPlan, batch: Delivered, policy: Policy
) -> tuple[list[Item | Part], Exception | None]:
    """Give a batch's messages in order, each with what it is for, and its columns after them.

    Where one of them is to be raised, those before it are given, and the exception.
    """
    types = batch.rows.types
    problems: Problems = {}
    items: list[Any] = [None] * len(types)
    parts: list[Part] = []
    for name, chosen in _by_type(types):
        route = plan.route(name)
        rows = range(len(types)) if chosen is None else chosen
        if route is None:
            for row in rows:
                _unknown(batch, row, name, policy, problems)
        elif plan.is_typed:
            parts += _typed_parts(batch, route, rows, policy, problems)
        else:
            events = batch.rows.events(route.kind, chosen)
            fitting = []
            for row, event in zip(rows, events, strict=True):
                if event.__class__ is Misfit:
                    _misfit(batch, row, event, policy, problems)
                    continue
                fitting.append((row, event))
                if route.calls:
                    items[row] = Item(batch, row, name, event, route.calls)
            if route.frame_calls and fitting:
                parts += _parts_of_events(batch, route, fitting)
    if problems:
        first = min(problems)
        return [item for item in items[:first] if item is not None], problems[first]
    return [item for item in items if item is not None] + parts, None


def _by_type(types: list[str | None]) -> list[tuple[str | None, list[int] | None]]:
    """Give the rows of each type; None where all are of one."""
    names = dict.fromkeys(types)
    if len(names) == 1:
        return [(types[0], None)]
    rows: dict[str | None, list[int]] = {name: [] for name in names}
    for row, name in enumerate(types):
        rows[name].append(row)
    return [*rows.items()]


def _typed_parts(
    batch: Delivered, route: Route, rows: Sequence[int], policy: Policy, problems: Problems
) -> list[Part]:
    assert isinstance(route.kind, Kind), "columns are of a model"
    frame = batch.batch.frame
    if len(rows) < frame.height:
        frame = frame[rows]
    columns, misfits = checked(route.kind, frame)
    for number, misfit in misfits.items():
        _misfit(batch, rows[number], misfit, policy, problems)
    if misfits:
        fitting = [number for number in range(len(rows)) if number not in misfits]
        columns, rows = columns[fitting], [rows[number] for number in fitting]
    if not rows:
        return []
    return _parts(batch, route, columns, rows)


def _parts_of_events(batch: Delivered, route: Route, fitting: list[tuple[int, Any]]) -> list[Part]:
    assert isinstance(route.kind, Kind), "columns are of a model"
    rows = [row for row, _ in fitting]
    ids = [batch.ids[row] for row in rows]
    columns = pl.DataFrame(
        {"_id": ids, "_ts": [int(one.partition("-")[0]) for one in ids]},
        schema={"_id": pl.String, "_ts": pl.Int64},
    ).hstack(route.kind.frame([event for _, event in fitting]))
    if route.calls:
        for row in rows:
            batch.wait_for(row)
    return _parts(batch, route, columns, rows)


def _parts(
    batch: Delivered, route: Route, columns: pl.DataFrame, rows: Sequence[int]
) -> list[Part]:
    """Give the columns to each handler of columns."""
    for _ in route.frame_calls[1:]:
        for row in rows:
            batch.wait_for(row)
    return [Part(batch, columns, rows, call) for call in route.frame_calls]


def _unknown(
    batch: Delivered, row: int, name: str | None, policy: Policy, problems: Problems
) -> None:
    what = "says no type" if name is None else f"is of the type {name!r}"
    if policy.on_unknown == "raise":
        msg = (
            f"no handler takes the entry {batch.ids[row]} of {batch.stream!r}, which {what}; "
            'register one, or choose on_unknown="ack" or "fail"'
        )
        problems[row] = UnknownTypeError(msg)
    elif policy.on_unknown == "ack":
        batch.ack(row)
    else:
        _fail(batch, row, f"no handler takes this entry, which {what}", policy)


def _misfit(batch: Delivered, row: int, misfit: Misfit, policy: Policy, problems: Problems) -> None:
    if policy.on_misfit == "raise":
        msg = (
            f"the entry {batch.ids[row]} of {batch.stream!r} {misfit.reason}; with a dead_letter "
            "such entries are put aside"
        )
        problems[row] = MisfitError(msg)
    else:
        _fail(batch, row, f"the entry {misfit.reason}", policy)


def _fail(batch: Delivered, row: int, reason: str, policy: Policy) -> None:
    if policy.record is not None:
        policy.record.failed(Item(batch, row, batch.rows.types[row], None, ()), reason)
    batch.fail(row, reason)
