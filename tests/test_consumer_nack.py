"""`nack`: entries that are given back, when they come again, and to whom."""

from __future__ import annotations

import datetime as dt
import itertools
import time
from contextlib import suppress
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import ResponseError, StreamConsumer
from support.consumers import EAGER, SHY, World, all_rows, dead_ids, letters, rows
from support.groups import DRAIN, ME, deliver, pending
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import SLACK, Stopwatch, eventually, later, within

pytestmark = pytest.mark.timeout(20)

#: Whether or not the worker takes over what others left, it gets again what it gave back.
RECLAIMS = pytest.mark.parametrize("reclaim", [{}, SHY], ids=["reclaim", "no-reclaim"])


def idle_times(client: redis.Redis, stream: str) -> list[int]:
    """List for how many milliseconds each pending entry looks idle."""
    found: Any = client.xpending_range(stream, "g", "-", "+", 10_000)
    return [one["time_since_delivered"] for one in found]


def test_nack_has_rows_delivered_again(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    came: list[tuple[list[int], list[int]]] = []
    with world.consumer(server.url, stream, block_ms=0, **ME) as consumer, within(5):
        for batch in consumer:
            came.append((rows(batch), batch.delivery_counts.to_list()))
            if len(came) == 1:
                assert world.do(batch.nack("2-0")) == 1
            elif len(came) == 2:
                break
    assert came == [([1, 2, 3], [1, 1, 1]), ([2], [2])]
    assert pending(client, stream) == []
    assert consumer.stats.acknowledged == 3
    assert consumer.stats.reclaimed == 1


def test_nack_gives_rows_to_another_consumer(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 4)
    with world.consumer(server.url, stream, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        assert world.do(batch.nack(pl.Series(["1-0", "3-0"]), delay_ms=0)) == 2
        other = world.consumer(server.url, stream, group="g", consumer="other", **DRAIN)
        with other:
            assert all_rows(other) == [1, 3]
        # They are not this consumer's any more.
        assert world.do(batch.nack()) == 2
    assert pending(client, stream) == [2, 4]


def test_nack_of_all_rows_and_of_none(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 150)
    with world.consumer(any_server.url, stream, **SHY, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        assert world.do(batch.nack([])) == 0
        # More than one script takes.
        assert world.do(batch.nack()) == 150


@RECLAIMS
def test_rows_come_again_with_growing_pauses(
    server: Server, client: redis.Redis, stream: str, world: World, reclaim: dict[str, Any]
) -> None:
    add_numbers(client, stream, 2)
    came: list[tuple[list[int], list[int]]] = []
    times: list[float] = []
    with world.consumer(server.url, stream, **reclaim, **ME, **DRAIN) as consumer:
        for batch in consumer:
            times.append(time.monotonic())
            came.append((rows(batch), batch.delivery_counts.to_list()))
            if len(came) <= 3:
                assert world.do(batch.nack("2-0")) == 1
    assert came == [([1, 2], [1, 1]), ([2], [2]), ([2], [3]), ([2], [4])]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    for pause, delay in zip(pauses, [0.1, 0.2, 0.4], strict=True):
        assert delay <= pause <= (delay + 0.15) * SLACK
    assert pending(client, stream) == []


@RECLAIMS
@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(0, 0.0), (300, 0.3), (dt.timedelta(seconds=0.25, microseconds=1), 0.251)],
    ids=str,
)
def test_rows_come_again_after_the_delay(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    reclaim: dict[str, Any],
    delay: Any,
    seconds: float,
) -> None:
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {"on_idle": "wait", "block_ms": 0, **reclaim, **ME}
    with world.consumer(any_server.url, stream, **options) as consumer:
        batch = next(consumer)
        watch = Stopwatch()
        assert world.do(batch.nack(delay_ms=delay)) == 3
        again = next(consumer)
        assert seconds <= watch.seconds <= (seconds + 0.2) * SLACK
        assert rows(again) == [1, 2, 3]
        assert again.delivery_counts.to_list() == [2, 2, 2]


def test_entries_wait_each_for_its_own_time(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Also while new ones come, and the last word counts."""
    add_numbers(client, stream, 4)
    with world.consumer(any_server.url, stream, **SHY, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        world.do(batch.nack("1-0", delay_ms=900))
        world.do(batch.nack(["2-0", "3-0"], delay_ms=100))
        world.do(batch.nack("3-0", delay_ms=500))
        add_numbers(client, stream, 5, first=5)
        assert all_rows(consumer) == [5, 2, 3, 1]
    assert pending(client, stream) == []


#: Short enough to wait for, and others look all the time.
HASTY: dict[str, Any] = {"reclaim_min_idle_ms": 2_000, "reclaim_interval_ms": 0, "group": "g"}


def taken_by_another(url: str, stream: str, world: World) -> list[int]:
    """Wait until another worker claims something, and say what."""
    taken: list[int] = []

    def take() -> bool:
        taken.extend(all_rows(world.consumer(url, stream, consumer="other", **HASTY, **DRAIN)))
        return bool(taken)

    eventually(take)
    return taken


@pytest.mark.parametrize("ends", ["well", "stop", "badly"])
def test_others_wait_as_long_once_the_worker_has_ended(
    server: Server, client: redis.Redis, stream: str, world: World, ends: str
) -> None:
    """What is still to wait is handed over: an idle time that lacks as much."""
    add_numbers(client, stream, 2)
    with (
        suppress(ZeroDivisionError),
        world.consumer(server.url, stream, consumer="me", ack="manual", **HASTY) as consumer,
    ):
        batch = next(consumer)
        assert world.do(batch.nack("1-0", delay_ms=800)) == 1
        assert world.do(batch.nack("2-0", delay_ms=2_000)) == 1
        given_back = Stopwatch()
        assert max(idle_times(client, stream)) < 500
        if ends == "stop":
            consumer.stop()
            assert all_rows(consumer) == []
        if ends == "badly":
            raise ZeroDivisionError
    assert given_back.seconds < 0.6, "the machine is too slow for this test"
    assert taken_by_another(server.url, stream, world) == [1]
    assert 0.8 <= given_back.seconds < 2
    assert pending(client, stream) == [2]


def test_a_worker_that_dies_leaves_what_waits_to_those_who_claim(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 1)
    dead = world.consumer(any_server.url, stream, consumer="me", **HASTY)
    assert world.do(next(dead).nack(delay_ms=500)) == 1
    given_back = Stopwatch()
    assert taken_by_another(any_server.url, stream, world) == [1]
    assert given_back.seconds >= 2


def test_what_another_took_is_not_handed_over(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with world.consumer(any_server.url, stream, **ME, **DRAIN) as consumer:
        assert world.do(next(consumer).nack(delay_ms=10_000)) == 3
        client.xclaim(stream, "g", "other", 0, ["2-0"])
        client.xack(stream, "g", "3-0")
    assert pending(client, stream, "other") == [2]
    first, second = idle_times(client, stream)
    assert first >= 20_000 > second


def test_a_worker_ends_well_where_the_group_is_gone(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with world.consumer(any_server.url, stream, **ME, **DRAIN) as consumer:
        assert world.do(next(consumer).nack(delay_ms=10_000)) == 3
        client.xgroup_destroy(stream, "g")


def test_a_worker_ends_soon_where_nothing_can_be_handed_over(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, **ME, **DRAIN) as consumer:
            assert world.do(next(consumer).nack(delay_ms=10_000)) == 3
            proxy.refuse(1_000)
            proxy.cut_all()
            ending = Stopwatch()
        assert ending.seconds < 2 * SLACK
    assert pending(client, stream) == [1, 2, 3]


def slowest_script(client: redis.Redis) -> float:
    """Say how many milliseconds a script took at most since the last call."""
    found: Any = client.slowlog_get(1_000)
    client.slowlog_reset()
    return float(max(one["duration"] for one in found if one["command"].startswith(b"EVAL"))) / 1e3


def test_nack_blocks_nobody_where_very_much_is_pending(
    redis810: Server, client: redis.Redis, stream: str
) -> None:
    """Redis 8.10 keeps pending entries in the order of their times, and walks to set one back."""
    add_numbers(client, stream, 40_000)
    watched = ("slowlog-log-slower-than", "slowlog-max-len")
    before: Any = [client.config_get(name) for name in watched]
    options: dict[str, Any] = {**ME, "ack": "manual", "batch_size": 100}
    try:
        with StreamConsumer(redis810.url, stream, schema=NUMBER, **options) as consumer:
            waiting, given_away = next(consumer), next(consumer)
            read = "redis.call('XREADGROUP', 'GROUP', 'g', 'me', 'STREAMS', KEYS[1], '>')"
            client.eval(read, 1, stream)
            for name, value in zip(watched, (0, 1_000), strict=True):
                client.config_set(name, value)
            client.slowlog_reset()
            assert waiting.nack(delay_ms=20_000) == 100
            assert slowest_script(client) < 50 * SLACK
            assert given_away.nack(delay_ms=0) == 100
            assert slowest_script(client) < 50 * SLACK
            ending = Stopwatch()
        assert ending.seconds < 2 * SLACK
        assert slowest_script(client) < 50 * SLACK
    finally:
        for config in before:
            for name, value in config.items():
                client.config_set(name, value)


def test_a_row_that_is_named_twice_counts_once(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 2)
    with world.consumer(any_server.url, stream, **SHY, **ME, **DRAIN) as consumer:
        assert world.do(next(consumer).nack(["1-0", "1-0"], delay_ms=1)) == 1
        assert all_rows(consumer) == [1]


def test_without_reclaim_others_do_not_come_first(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 1)
    with world.consumer(any_server.url, stream, **SHY, **ME, **DRAIN) as consumer:
        world.do(next(consumer).nack(delay_ms=60_000))
        [idle] = idle_times(client, stream)
        assert idle < 10_000
        eager: dict[str, Any] = {
            **DRAIN,
            "group": "g",
            "consumer": "other",
            "reclaim_interval_ms": 0,
        }
        assert all_rows(world.consumer(any_server.url, stream, **eager)) == []
        consumer.stop()
        assert all_rows(consumer) == []
    # A worker of the same name does not know of the delay.
    assert all_rows(world.consumer(any_server.url, stream, **SHY, **ME, **DRAIN)) == [1]


def test_what_another_took_meanwhile_is_not_taken_back(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with world.consumer(any_server.url, stream, **SHY, **ME, **DRAIN) as consumer:
        world.do(next(consumer).nack(delay_ms=50))
        client.xclaim(stream, "g", "other", 0, ["2-0"])
        assert all_rows(consumer) == [1, 3]
    assert pending(client, stream) == [2]
    assert pending(client, stream, "other") == [2]


def test_what_is_due_waits_for_a_reply_that_has_begun(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """The entries that come are not lost on their way, with the connection."""
    add_numbers(client, stream, 1)
    options: dict[str, Any] = {"block_ms": 10_000, **SHY, **ME}
    with Proxy(any_server.port) as proxy, world.consumer(proxy.url, stream, **options) as consumer:
        world.do(next(consumer).nack(delay_ms=500))
        connections = proxy.connections
        # It takes longer than that.
        proxy.trickle(8, delay=0.1)
        with later(0.05, lambda: add_numbers(client, stream, 2, first=2)):
            assert rows(next(consumer)) == [2]
        proxy.trickle(0)
        assert rows(next(consumer)) == [1]
        assert proxy.connections == connections


def test_what_was_acknowledged_or_deleted_meanwhile_does_not_come(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with world.consumer(server.url, stream, **SHY, **ME, **DRAIN) as consumer:
        world.do(next(consumer).nack(delay_ms=50))
        client.xack(stream, "g", "1-0")
        client.xdel(stream, "2-0")
        assert all_rows(consumer) == [3]
    assert pending(client, stream) == []


def test_nack_spares_the_server(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Not a command after the other while a downstream service is down."""
    add_numbers(client, stream, 100)
    options: dict[str, Any] = {"dead_letter": "dead", "max_deliveries": 3, **ME, **DRAIN}
    watch = Stopwatch()
    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, **options) as consumer:
            for batch in consumer:
                world.do(batch.nack())
        # The last delivery of each is made alone, and given back alone.
        assert len(proxy.commands) < 400
    assert watch.seconds >= 0.7
    assert sorted(dead_ids(client)) == sorted(f"{n}-0" for n in range(1, 101))
    assert {letter[b"_dead_deliveries"] for letter in letters(client)} == {b"3"}


def test_a_service_that_comes_back_finds_everything(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 100)
    options: dict[str, Any] = {"dead_letter": "dead", "max_deliveries": 3, **ME, **DRAIN}
    done: list[int] = []
    with world.consumer(any_server.url, stream, **options) as consumer:
        outage = Stopwatch()
        for batch in consumer:
            if outage.seconds < 0.2:
                world.do(batch.nack())
            else:
                done += rows(batch)
    assert sorted(done) == [*range(1, 101)]
    assert not client.exists("dead")
    assert pending(client, stream) == []


def test_a_delay_longer_than_others_wait(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 2)
    options: dict[str, Any] = {"reclaim_min_idle_ms": 500, **ME, **DRAIN}
    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, **options) as consumer:
            batch = next(consumer)
            sent = len(proxy.commands)
            with pytest.raises(ValueError, match=r"delay_ms is 501.*reclaim_min_idle_ms \(500\)"):
                world.do(batch.nack(delay_ms=501))
            wrong = [(-1, ValueError), (0.5, TypeError), ("1", TypeError), (True, TypeError)]
            for delay, error in wrong:
                with pytest.raises(error, match="delay_ms"):
                    world.do(batch.nack(delay_ms=delay))
            with pytest.raises(ValueError, match="delay_ms"):
                world.do(batch.nack(delay_ms=dt.timedelta(seconds=-1)))
            with pytest.raises(ValueError, match="delay_ms"):
                world.do(batch.nack(delay_ms=dt.timedelta.max))
            with pytest.raises(ValueError, match="7-0"):
                world.do(batch.nack(["1-0", "7-0"], delay_ms=0))
            assert len(proxy.commands) == sent
            assert world.do(batch.nack(delay_ms=500)) == 2
            assert all_rows(consumer) == [1, 2]
    assert pending(client, stream) == []


def test_the_default_delay_is_no_longer_than_others_wait(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 1)
    with world.consumer(any_server.url, stream, **EAGER, **ME, **DRAIN) as consumer:
        counts = []
        for batch in consumer:
            counts.append(batch.delivery_counts.item())
            if len(counts) < 9:
                world.do(batch.nack())
    assert counts == [*range(1, 10)]


def test_a_handler_gives_rows_back(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 3)
    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, **ME, **DRAIN)
    came: list[list[int]] = []

    def handle(batch: Any) -> None:
        came.append(rows(batch))
        if len(came) == 1:
            batch.nack(["1-0", "2-0"], delay_ms=10)

    with within(5):
        consumer.run(handle)
    assert came == [[1, 2, 3], [1, 2]]
    assert pending(client, stream) == []


def test_a_lost_reply_does_not_lose_what_was_given_back(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(server.port) as proxy:
        with world.consumer(proxy.url, stream, **SHY, **ME, **DRAIN) as consumer:
            world.do(next(consumer).nack(delay_ms=10))
            proxy.cut_after(40, once_seen=b"XCLAIM")
            assert all_rows(consumer) == [1, 2, 3]
    assert pending(client, stream) == []


def test_what_was_given_back_before_an_error_comes_again(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """A script takes a hundred."""
    add_numbers(client, stream, 150)
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-ERR no more\r\n", once_seen=b"EVAL", skip=1)
        with world.consumer(proxy.url, stream, **SHY, **ME, **DRAIN) as consumer:
            batch = next(consumer)
            with pytest.raises(ResponseError, match="no more"):
                world.do(batch.nack(delay_ms=1))
            assert all_rows(consumer) == [*range(1, 101)]
    assert pending(client, stream) == [*range(101, 151)]


def test_what_another_client_gave_to_nobody_is_claimed(
    redis810: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """XNACK (Redis 8.8) leaves an entry without a consumer and without an idle time."""
    add_numbers(client, stream, 3)
    deliver(client, stream, consumer="other")
    client.execute_command("XNACK", stream, "g", "FAIL", "IDS", 1, "2-0")
    assert pending(client, stream, "other") == [1, 3]
    assert all_rows(world.consumer(redis810.url, stream, **SHY, **ME, **DRAIN)) == []
    with world.consumer(redis810.url, stream, **ME, **DRAIN) as consumer:
        assert all_rows(consumer) == [2]
    assert pending(client, stream) == [1, 3]
