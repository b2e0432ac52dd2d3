"""A processor's arguments: what goes beyond those of a read."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from redfloe._checks import Milliseconds, as_key, milliseconds, natural, positive
from redfloe._consuming.arguments import make_worker_group
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redfloe._arguments import Group, Request
    from redfloe._ids import EntryIdLike


class ProcessorArguments(TypedDict):
    """How a processor acquires its lane and commits; `src/python/processor.rs` has its twin."""

    name: bytes
    #: Says to people who has the lane: the host's name.
    label: str
    lease_ms: int
    takeover: bool
    wait_replicas: int
    wait_aof: bool
    wait_aof_replicas: int
    wait_timeout_ms: int
    max_commit_bytes: int
    dead_letter: bytes | None
    max_deliveries: int | None
    outputs: list[bytes]
    continue_after_loss: bool


def make_arguments(
    name: str | bytes,
    stream: bytes,
    *,
    outputs: Iterable[str | bytes],
    dead_letter: str | bytes | None,
    max_deliveries: int | None,
    lease_ms: Milliseconds,
    takeover: bool,
    wait_replicas: int,
    wait_aof: bool,
    wait_aof_replicas: int,
    wait_timeout_ms: Milliseconds,
    max_commit_bytes: int,
    on_data_loss: str,
) -> ProcessorArguments:
    """Check and normalise how a processor acquires its lane and commits."""
    given = [outputs] if isinstance(outputs, str | bytes) else list(outputs)
    letters = None if dead_letter is None else as_key(dead_letter, "dead_letter")
    if letters == stream:
        msg = "dead_letter is the stream itself, which would never come to an end"
        raise ValueError(msg)
    if letters is None and max_deliveries is not None:
        msg = "max_deliveries needs a dead_letter stream"
        raise ValueError(msg)
    return ProcessorArguments(
        name=as_key(name, "name"),
        label=_host(),
        lease_ms=milliseconds(lease_ms, "lease_ms"),
        takeover=bool(takeover),
        wait_replicas=_few(wait_replicas, "wait_replicas"),
        wait_aof=bool(wait_aof),
        wait_aof_replicas=_few(wait_aof_replicas, "wait_aof_replicas"),
        wait_timeout_ms=milliseconds(wait_timeout_ms, "wait_timeout_ms"),
        max_commit_bytes=positive(max_commit_bytes, "max_commit_bytes") or 1,
        dead_letter=letters,
        max_deliveries=positive(max_deliveries, "max_deliveries"),
        outputs=[as_key(output, "outputs") for output in given],
        continue_after_loss=on_data_loss == "continue",
    )


def make_member(
    group: str | bytes | None,
    consumer: str | bytes | None,
    *,
    create_group: bool,
    group_start_id: EntryIdLike,
    reclaim_min_idle_ms: Milliseconds | None,
    reclaim_interval_ms: Milliseconds,
    auto_extend: bool,
    max_processing_ms: Milliseconds | None,
    max_deliveries: int | None,
    dead_letter: str | bytes | None,
) -> Group | None:
    """Check how a processor is one of the workers of a group; None without one."""
    if group is None:
        if consumer is not None:
            msg = "consumer needs a group"
            raise ValueError(msg)
        return None
    return make_worker_group(
        group,
        consumer,
        streams=[],
        # What is done with, a commit acknowledges.
        ack="manual",
        create_group=create_group,
        group_start_id=group_start_id,
        reclaim_min_idle_ms=reclaim_min_idle_ms,
        reclaim_interval_ms=reclaim_interval_ms,
        auto_extend=auto_extend,
        max_processing_ms=max_processing_ms,
        max_deliveries=max_deliveries,
        dead_letter=dead_letter,
        on_group_lost="raise",
        remove_consumer="never",
        remove_idle_consumers_ms=None,
    )


def where(request: Request, arguments: ProcessorArguments) -> dict[str, str | None]:
    """Give the names of a processor and its stream, as its log shows them."""
    return {"stream": readable(request["stream"]), "processor": readable(arguments["name"])}


def _few(number: object, parameter: str) -> int:
    return min(natural(number, parameter), 2**32 - 1)


def _host() -> str:
    import socket

    return socket.gethostname()
