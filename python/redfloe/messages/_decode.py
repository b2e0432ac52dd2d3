"""Batches to items: which handlers a message is for, and what becomes of one that is for none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import polars as pl

from redfloe._checks import one_of
from redfloe._consuming.retry import reason_of
from redfloe.messages._delivery import Delivered, Item
from redfloe.messages._doubt import Misfit
from redfloe.messages._errors import MisfitError, UnknownTypeError
from redfloe.messages._frames import Part, checked
from redfloe.messages._kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from redfloe.messages._plan import Route, StreamPlan


#: The latest time that a column holds, in milliseconds.
_LATEST = 2**63 - 1

#: What is to be raised of which rows.
Problems: TypeAlias = dict[int, Exception]


@dataclass(frozen=True)
class Policy:
    """What becomes of messages that no handler is called with."""

    on_unknown: Literal["ack", "fail", "raise"]
    on_misfit: Literal["dead_letter", "raise"]
    #: Told of those that fail, where an app drains.
    record: Any = None


def policy_of(
    on_unknown: Literal["ack", "fail", "raise"],
    on_misfit: Literal["dead_letter", "raise"] | None,
    *,
    has_dead_letter: bool,
) -> Policy:
    """Check what becomes of messages that no handler is called with."""
    one_of(on_unknown, "on_unknown", "ack", "fail", "raise")
    on_misfit = on_misfit or ("dead_letter" if has_dead_letter else "raise")
    one_of(on_misfit, "on_misfit", "dead_letter", "raise")
    if not has_dead_letter and (on_unknown == "fail" or on_misfit == "dead_letter"):
        msg = 'on_unknown="fail" and on_misfit="dead_letter" need a dead_letter stream'
        raise ValueError(msg)
    return Policy(on_unknown, on_misfit)


def decode(
    plan: StreamPlan, batch: Delivered, policy: Policy
) -> tuple[list[Item | Part], Exception | None]:
    """Give a batch's messages in order, each with what it is for, and its columns after them.

    Where one of them is to be raised, those before it are given, and the exception.
    """
    problems: Problems = {}
    items: list[Any] = [None] * len(batch)
    parts: list[Part] = []
    for name, chosen in batch.rows.by_type():
        route = plan.route(name)
        rows = range(len(batch)) if chosen is None else chosen
        if route is None:
            for row in rows:
                _unknown(batch, row, name, policy, problems)
        elif plan.is_typed:
            parts += _typed_parts(batch, route, rows, plan.codec.document, policy, problems)
        else:
            events = batch.rows.events(route.kind, chosen)
            fitting = []
            for row, event in zip(rows, events, strict=True):
                if event.__class__ is Misfit:
                    _misfit(batch, row, event, policy, problems)
                else:
                    fitting.append(Item(batch, row, name, event, route.calls))
            if route.key is not None:
                fitting = _with_keys(route.key, fitting, policy, problems)
            if route.frame_calls and fitting:
                columns, fitting = _columns(route, fitting, policy, problems)
                parts += _parts_beside(batch, route, columns, fitting)
            if route.calls:
                for item in fitting:
                    items[item.row] = item
    if problems:
        first = min(problems)
        return [item for item in items[:first] if item is not None], problems[first]
    return [item for item in items if item is not None] + parts, None


def _typed_parts(
    batch: Delivered,
    route: Route,
    rows: Sequence[int],
    document: str | None,
    policy: Policy,
    problems: Problems,
) -> list[Part]:
    assert isinstance(route.kind, Kind), "columns are of a model"
    frame = batch.batch.frame
    if len(rows) < frame.height:
        frame = frame[rows]
    columns, misfits = checked(route.kind, frame, document)
    for number, misfit in misfits.items():
        _misfit(batch, rows[number], misfit, policy, problems)
    if misfits:
        fitting = [number for number in range(len(rows)) if number not in misfits]
        columns, rows = columns[fitting], [rows[number] for number in fitting]
    if not rows:
        return []
    return _parts(batch, route, columns, rows)


def _with_keys(
    key: Callable[[Item], Hashable], items: list[Item], policy: Policy, problems: Problems
) -> list[Item]:
    """Give the messages whose key can be told."""
    fitting = []
    for item in items:
        try:
            found = key(item)
            item.key_hash = None if found is None else hash(found)
        except Exception as error:  # noqa: BLE001 - it is the user's, and of this message only
            misfit = Misfit(f"has no key: {reason_of(error)}")
            _misfit(item.batch, item.row, misfit, policy, problems)
        else:
            fitting.append(item)
    return fitting


def _columns(
    route: Route, items: list[Item], policy: Policy, problems: Problems
) -> tuple[pl.DataFrame, list[Item]]:
    """Give messages as columns, and those that these can hold."""
    assert isinstance(route.kind, Kind), "columns are of a model"
    columns, misfits = route.kind.frame([item.event for item in items])
    times = [int(item.id.partition("-")[0]) for item in items]
    for number, time in enumerate(times):
        if time > _LATEST:
            misfits[number] = route.kind.misfit([f"the time {time} does not fit"])
    for number, misfit in misfits.items():
        _misfit(items[number].batch, items[number].row, misfit, policy, problems)
    beside = pl.DataFrame(
        {"_id": [item.id for item in items], "_ts": [min(time, _LATEST) for time in times]},
        schema={"_id": pl.String, "_ts": pl.Int64},
    )
    columns = beside.hstack(columns)
    if misfits:
        fitting = [number for number in range(len(items)) if number not in misfits]
        columns, items = columns[fitting], [items[number] for number in fitting]
    return columns, items


def _parts_beside(
    batch: Delivered, route: Route, columns: pl.DataFrame, items: list[Item]
) -> list[Part]:
    """Give the columns to handlers of columns, beside those of single messages."""
    if not items:
        return []
    rows = [item.row for item in items]
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
            f"no handler takes the entry {batch.ids[row]} of {batch.stream(row)!r}, which {what}; "
            'register one, or choose on_unknown="ack" or "fail"'
        )
        problems[row] = UnknownTypeError(msg)
    elif policy.on_unknown == "ack":
        batch.skip(row)
    else:
        _fail(batch, row, f"no handler takes this entry, which {what}", policy)


def _misfit(batch: Delivered, row: int, misfit: Misfit, policy: Policy, problems: Problems) -> None:
    if policy.on_misfit == "raise":
        msg = (
            f"the entry {batch.ids[row]} of {batch.stream(row)!r} {misfit.reason}; with a "
            "dead_letter such entries are put aside"
        )
        problems[row] = MisfitError(msg)
    else:
        _fail(batch, row, f"the entry {misfit.reason}", policy)


def _fail(batch: Delivered, row: int, reason: str, policy: Policy) -> None:
    if policy.record is not None:
        policy.record.failed(Item(batch, row, batch.rows.types[row], None, ()), reason)
    batch.fail(row, reason)
