"""A processor at work that is looked at, reset and deleted."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import redis

import redfloe
from redfloe import FencedError, ProcessorRunningError, processor_info, reset_processor
from support.consumers import World
from support.processors import NAME, STREAM, TOTALS, Driven, check, outputs, processor, saved, work
from support.server import Server
from support.streams import add_numbers


def drain(world: World, url: str, **options: Any) -> None:
    with Driven(world, processor(url, batch_size=10, **options)) as driven:
        for tx in driven:
            work(world, tx)


def test_what_is_seen_of_one_at_work(any_server: Server, client: redis.Redis, world: World) -> None:
    url = any_server.url
    add_numbers(client, STREAM, 25)
    with Driven(world, processor(url, batch_size=10)) as driven:
        for batches, tx in enumerate(driven):
            work(world, tx)
            row = processor_info(url).row(0, named=True)
            assert (row["held"], row["epoch"], row["commits"]) == (True, 1, batches)
            assert row["lag"] == 25 - 10 * batches
            assert row["entries"] == (10 * batches or None)
    row = processor_info(url, STREAM, name=NAME).row(0, named=True)
    assert (row["held"], row["owner"], row["lease_left"]) == (False, None, None)
    assert (row["position"], row["lag"], row["lag_time"]) == ("25-0", 0, dt.timedelta())
    assert (row["commits"], row["entries"], row["batch_entries"]) == (3, 25, 5)
    assert dt.timedelta() <= row["batch_time"] < dt.timedelta(seconds=30)
    assert row["acquired_at"] <= row["committed_at"]


def test_who_works_on_is_fenced(server: Server, client: redis.Redis, world: World) -> None:
    """All that it had not committed is written once, by whoever comes next."""
    url = server.url
    add_numbers(client, STREAM, 25)

    def work_on() -> None:
        with Driven(world, processor(url, batch_size=10)) as driven:
            for tx in driven:
                work(world, tx)
                if outputs(client):
                    with pytest.raises(ProcessorRunningError):
                        reset_processor(url, STREAM, NAME, to="0", state="drop")
                    done = reset_processor(url, STREAM, NAME, to="0", state="drop", takeover=True)
                    assert done.drop("epoch").row(0) == ("10-0", "0-0", 1, ["totals"], 2)
                    assert saved(client) == {}

    with pytest.raises(FencedError):
        work_on()
    assert outputs(client) == [*range(1, 11)]
    client.delete("{numbers}:out")
    drain(world, url)
    check(client, 25)


def test_a_run_after_a_reset(any_server: Server, client: redis.Redis, world: World) -> None:
    url = any_server.url
    add_numbers(client, STREAM, 25)
    drain(world, url)
    check(client, 25)
    # What is skipped is in no output, and the state goes on.
    add_numbers(client, STREAM, 30, first=26)
    reset_processor(url, STREAM, NAME, to="28", state="keep")
    drain(world, url)
    assert outputs(client) == [*range(1, 26), 29, 30]
    assert saved(client) == {"seen": 27}
    # What is read again with the state counts twice.
    reset_processor(url, STREAM, NAME, to="25", state="keep")
    drain(world, url)
    assert saved(client) == {"seen": 32}
    reset_processor(url, STREAM, NAME, to="0", state="drop")
    client.delete("{numbers}:out")
    drain(world, url)
    check(client, 30)
    assert redfloe.delete_processor(url, STREAM, NAME)
    assert processor_info(url).height == 0
    client.delete("{numbers}:out")
    drain(world, url)
    check(client, 30)
    table = redfloe.read_table(url, STREAM, NAME, "totals", **TOTALS)
    assert sorted(table.rows()) == [(0, 240), (1, 225)]


@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("policy", ["raise", "continue"])
def test_who_works_on_while_it_is_deleted_is_fenced(
    any_server: Server, client: redis.Redis, world: World, policy: Any, group: bool
) -> None:
    """It was told of lost data, and began again at the start where it was to go on."""
    url = any_server.url
    options: dict[str, Any] = {"batch_size": 10, "on_data_loss": policy}
    if group:
        options |= {"group": "g", "consumer": "c"}
    add_numbers(client, STREAM, 25)

    def work_on() -> None:
        with Driven(world, processor(url, **options)) as driven:
            for tx in driven:
                tx.publish("{numbers}:out", tx.frame)
                if outputs(client):
                    assert redfloe.delete_processor(url, STREAM, NAME, takeover=True)
                    assert not redfloe.delete_processor(url, STREAM, NAME)
                    assert processor_info(url).height == 0

    with pytest.raises(FencedError):
        work_on()
    assert outputs(client) == [*range(1, 11)]
    with pytest.raises(redfloe.NoProcessorError):
        reset_processor(url, STREAM, NAME, to="0", state="drop")
    with Driven(world, processor(url, **options)) as driven:
        assert next(driven).frame["n"][0] == (11 if group else 1)
    assert processor_info(url)["epoch"].item() > 1


def test_what_is_read_again_after_a_reset_was_not_tried(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """Of the entries that are handed out alone, once each, a note says that it was done."""
    url = any_server.url
    alone: dict[str, Any] = {"batch_size": 1, "max_deliveries": 1, "dead_letter": "{numbers}:dead"}
    add_numbers(client, STREAM, 4)
    with Driven(world, processor(url, **alone)) as driven:
        for tx in driven:
            work(world, tx)
    reset_processor(url, STREAM, NAME, to="0", state="drop")
    client.delete("{numbers}:out")
    with Driven(world, processor(url, **alone)) as driven:
        for tx in driven:
            work(world, tx)
    check(client, 4)
    assert client.exists("{numbers}:dead") == 0


def test_a_standby_begins_where_the_reset_says(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    url = any_server.url
    add_numbers(client, STREAM, 20)
    with Driven(world, processor(url, batch_size=10)) as first:
        work(world, next(first))
        reset_processor(url, STREAM, NAME, to="15", state="drop", takeover=True)
        with Driven(world, processor(url, batch_size=10)) as second:
            for tx in second:
                work(world, tx)
        with pytest.raises(FencedError):
            next(first)
    assert outputs(client) == [16, 17, 18, 19, 20]
