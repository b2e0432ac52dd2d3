"""What processors in the fire do, and what is left of it: the same whatever happens to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import redis

import redfloe
from redfloe import AsyncTransaction, StreamProcessor, Transaction
from redfloe._processing.values import decode
from support.streams import NUMBER

STREAM = "numbers"
NAME = "tortured"
OUT, FEW, DEAD = "{numbers}:out", "{numbers}:few", "{numbers}:dead"
KEYS = 97
#: Those that their processor refuses.
REFUSED = 211
_TABLE: dict[str, Any] = {
    "key": "key",
    "schema": {"key": pl.Int64, "sum": pl.Int64, "n": pl.UInt32},
}


class Progress(redfloe.State):
    """State with declared attributes."""

    seen: int = 0
    total: int = 0
    #: The latest numbers, in their order.
    latest: list[int] = []  # noqa: RUF012


def make(url: Any, **options: Any) -> StreamProcessor:
    """Make one of them."""
    return StreamProcessor(
        url, STREAM, name=NAME, schema=NUMBER, dead_letter=DEAD, outputs=[OUT, FEW], **options
    )


def work(tx: Transaction) -> None:
    """Do something with everything that a transaction has."""
    _work(tx, tx.table("sums", **_TABLE))


async def work_async(tx: AsyncTransaction) -> None:
    """Do the same."""
    _work(tx, await tx.table("sums", **_TABLE))


def _work(tx: Any, sums: redfloe.Table) -> None:
    good = tx.frame.filter(pl.col("n") % REFUSED != 0)
    bad = tx.ids.filter(tx.frame["n"] % REFUSED == 0)
    if len(bad):
        tx.fail(bad, "refused")
    new = good.group_by(key=pl.col("n") % KEYS).agg(sum=pl.col("n").sum(), n=pl.len())
    old = sums.lookup(new["key"])
    sums.upsert(
        new.select(
            "key",
            sum=pl.col("sum") + old["sum"].fill_null(0),
            n=pl.col("n") + old["n"].fill_null(0),
        )
    )
    progress = tx.state.model(Progress)
    progress.seen += len(tx)
    progress.total += int(good["n"].sum())
    progress.latest = [*progress.latest, *good["n"]][-5:]
    tx.state["last"] = tx.frame["n"][-1]
    # What is read of the state and written for each row depends on all that was before.
    sums_so_far = progress.total - int(good["n"].sum()) + good["n"].cum_sum()
    tx.publish(OUT, good.select("n", total=sums_so_far))
    tx.publish(FEW, good.filter(pl.col("n") % 10 == 0))


@dataclass(frozen=True)
class Left:
    """What is in Redis."""

    state: dict[str, Any]
    table: dict[int, Any]
    outputs: list[dict[bytes, bytes]]
    few: list[dict[bytes, bytes]]
    letters: list[bytes]


def left(client: redis.Redis) -> Left:
    """Look at what is in Redis."""
    untyped: Any = client
    lane = f"{{{STREAM}}}:redfloe:{STREAM}:{NAME}"
    state = {name.decode(): decode(text) for name, text in untyped.hgetall(f"{lane}:state").items()}
    rows = untyped.hgetall(f"{lane}:table:sums")
    return Left(
        state,
        {int(key): decode(row) for key, row in rows.items()},
        [fields for _, fields in untyped.xrange(OUT)],
        [fields for _, fields in untyped.xrange(FEW)],
        [fields[b"_dead_id"] for _, fields in untyped.xrange(DEAD)],
    )
