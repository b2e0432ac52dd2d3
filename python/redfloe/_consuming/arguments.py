"""A worker's arguments: what goes beyond those of a read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from redfloe._arguments import Group, Request, Streams, make_group
from redfloe._checks import (
    Milliseconds,
    as_key,
    milliseconds,
    one_of,
    optional_milliseconds,
    positive,
    refuse_frame,
)
from redfloe._words import readable

if TYPE_CHECKING:
    from redfloe._ids import EntryIdLike


def make_worker_group(
    group: str | bytes | None,
    consumer: str | bytes | None,
    *,
    streams: list[bytes],
    ack: str,
    create_group: bool,
    group_start_id: EntryIdLike,
    reclaim_min_idle_ms: Milliseconds | None,
    reclaim_interval_ms: Milliseconds,
    auto_extend: bool,
    max_processing_ms: Milliseconds | None,
    max_deliveries: int | None,
    dead_letter: str | bytes | None,
    on_group_lost: str,
    remove_consumer: str,
    remove_idle_consumers_ms: Milliseconds | None,
) -> Group | None:
    """Check how a worker is a member of a consumer group; None without one."""
    one_of(ack, "ack", "on_success", "manual")
    one_of(on_group_lost, "on_group_lost", "raise", "recreate")
    one_of(remove_consumer, "remove_consumer", "never", "on_close")
    if group is None and (dead_letter is not None or max_deliveries is not None):
        msg = "dead_letter and max_deliveries need a group"
        raise ValueError(msg)
    if group is None and (remove_consumer != "never" or remove_idle_consumers_ms is not None):
        msg = "remove_consumer and remove_idle_consumers_ms need a group"
        raise ValueError(msg)
    if dead_letter is None and max_deliveries is not None:
        msg = "max_deliveries needs a dead_letter stream"
        raise ValueError(msg)
    member = make_group(
        group,
        consumer,
        auto_ack=False,
        create_group=create_group,
        group_start_id=group_start_id,
        noack=False,
        start_id=None,
        own_pending="first",
    )
    if member is None:
        return None
    member["auto_ack"] = ack == "on_success"
    member["count_deliveries"] = True
    member["recreate"] = on_group_lost == "recreate"
    member["max_deliveries"] = positive(max_deliveries, "max_deliveries")
    member["remove_on_close"] = remove_consumer == "on_close"
    member["remove_idle_ms"] = optional_milliseconds(
        remove_idle_consumers_ms, "remove_idle_consumers_ms"
    )
    interval = milliseconds(reclaim_interval_ms, "reclaim_interval_ms")
    min_idle = optional_milliseconds(reclaim_min_idle_ms, "reclaim_min_idle_ms")
    member["reclaim_ms"] = None if min_idle is None else (min_idle, interval)
    longest = optional_milliseconds(max_processing_ms, "max_processing_ms")
    member["max_processing_ms"] = _max_processing(longest, min_idle, auto_extend=auto_extend)
    if dead_letter is not None:
        member["dead_letter"] = as_key(dead_letter, "dead_letter")
        if member["dead_letter"] in streams:
            msg = "dead_letter is the stream itself, which would never come to an end"
            raise ValueError(msg)
    return member


#: How often in a row others may be kept from an entry.
_EXTENSIONS = 10
#: What the core can count.
_LONGEST = 2**64 - 1


def _max_processing(longest: int | None, min_idle: int | None, *, auto_extend: bool) -> int | None:
    """Say how long entries in hand are kept from others; None for not at all."""
    if longest is not None and not auto_extend:
        msg = "max_processing_ms needs auto_extend=True"
        raise ValueError(msg)
    if longest is not None and min_idle is None:
        msg = "max_processing_ms needs reclaim_min_idle_ms: without it this worker reclaims nothing"
        raise ValueError(msg)
    if longest is not None and min_idle is not None and longest < min_idle:
        msg = (
            f"max_processing_ms is {longest}, but nobody takes an entry over before it has been "
            f"pending for reclaim_min_idle_ms ({min_idle}); pass a longer max_processing_ms or a "
            "shorter reclaim_min_idle_ms"
        )
        raise ValueError(msg)
    if not auto_extend or min_idle is None:
        return None
    return min(min_idle * _EXTENSIONS, _LONGEST) if longest is None else longest


def keys_of(streams: Streams) -> bytes | list[bytes]:
    """Give one stream's key, or those of several."""
    if isinstance(streams, str | bytes) or not isinstance(streams, Iterable):
        return as_key(streams, "stream")
    refuse_frame(streams, "stream", "keys", "stream")
    return [as_key(key, "each of several streams") for key in streams]


def start_of(start_id: EntryIdLike, member: Group | None) -> EntryIdLike:
    """Give where a worker begins; a member of a group goes on where its group is."""
    if member is not None and start_id != "-":
        msg = (
            f"start_id is {start_id!r}, but a group keeps its own position: pass "
            "group_start_id, which counts when the group is created, or leave out the group"
        )
        raise ValueError(msg)
    return start_id


def where(request: Request) -> dict[str, str | None]:
    """Give the names of a worker's stream, group and consumer, as its log shows them."""
    many, group = request["many"], request["group"]
    if many is None:
        stream = readable(request["stream"])
    elif many["pattern"] is not None:
        stream = readable(many["pattern"][0])
    else:
        stream = ", ".join(readable(key) for key in many["streams"])
        if len(many["streams"]) > _SHOWN:
            others = len(many["streams"]) - 1
            stream = f"{readable(many['streams'][0])} and {others} others"
    return {
        "stream": stream,
        "group": None if group is None else readable(group["group"]),
        "consumer": None if group is None else readable(group["consumer"]),
    }


#: How many streams a log names.
_SHOWN = 3


def decoding_errors(on_error: str | None, *, has_dead_letter: bool) -> str:
    """Give what the core calls it that misfits raise, become null, or are dead letters."""
    if on_error is None:
        on_error = "dead_letter" if has_dead_letter else "raise"
    one_of(on_error, "on_error", "raise", "null", "dead_letter")
    if on_error != "dead_letter":
        return on_error
    if not has_dead_letter:
        msg = 'on_error="dead_letter" needs a dead_letter stream'
        raise ValueError(msg)
    return "reject"
