"""Each entry is handed out once per delivery, and a delivery counts once it was handed out."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import (
    AuthenticationError,
    NoGroupError,
    RedisConnection,
    RedisTimeoutError,
    StreamConsumer,
    ack_entries,
    iter_stream,
    read_stream,
)
from support.clients import is_waiting, quick
from support.consumers import EAGER, SHY, all_rows, dead_ids, letters
from support.groups import DRAIN, ME, deliver, pending
from support.processes import python
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import eventually, later, within

pytestmark = pytest.mark.timeout(30)

#: Entries that are delivered three times at most.
POISON: dict[str, Any] = {"dead_letter": "dead", "max_deliveries": 3}
TEXT = {"v": pl.String}


def add_large(client: redis.Redis, stream: str, number: int, size: int) -> None:
    """Add entries `1-0` and on of so many bytes each."""
    pipeline = client.pipeline(transaction=False)
    for n in range(1, number + 1):
        pipeline.xadd(stream, {"v": "x" * size}, id=f"{n}-0")
    pipeline.execute()


def counts(client: redis.Redis, stream: str) -> dict[int, int]:
    """Give the delivery count of each pending entry."""
    found: Any = client.xpending_range(stream, "g", "-", "+", 100_000)
    return {int(one["message_id"].split(b"-")[0]): one["times_delivered"] for one in found}


# Batches that are closed in the middle of a reply


@pytest.mark.parametrize("ack", ["on_success", "manual"])
def test_own_pending_entries_come_once_though_bytes_close_their_batches(
    server: Server, client: redis.Redis, stream: str, ack: Any
) -> None:
    add_large(client, stream, 600, 10_000)
    deliver(client, stream)
    options: dict[str, Any] = {"batch_size": 100_000, "batch_bytes": 2_500_000, "ack": ack}
    ids: list[str] = []
    with StreamConsumer(server.url, stream, schema=TEXT, **options, **ME, **DRAIN) as consumer:
        for batch in consumer:
            ids += batch.ids.to_list()
    assert ids == [f"{n}-0" for n in range(1, 601)]


def test_what_is_in_hand_does_not_come_again_after_a_lost_connection(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_large(client, stream, 300, 10_000)
    with Proxy(server.port) as proxy:
        connection = quick(proxy.url, client_name="me")
        options: dict[str, Any] = {"batch_size": 100_000, "batch_bytes": 700_000, **SHY}
        consumer = StreamConsumer(
            connection, stream, schema=TEXT, ack="manual", block_ms=0, **options, **ME
        )
        ids: list[str] = []
        while len(ids) < 300:
            ids += next(consumer).ids.to_list()

        def cut() -> None:
            eventually(is_waiting(client, "me"))
            proxy.cut_all()
            client.xadd(stream, {"v": "new"}, id="301-0")

        with later(0, cut):
            ids += next(consumer).ids.to_list()
    assert ids == [f"{n}-0" for n in range(1, 302)]


def test_deleted_pending_entries_are_acknowledged_though_bytes_close_their_batches(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_large(client, stream, 300, 20_000)
    deliver(client, stream)
    client.xdel(stream, *[f"{n}-0" for n in range(1, 301, 2)])
    options: dict[str, Any] = {"batch_size": 100_000, "batch_bytes": 300_000, **SHY}
    ids: list[str] = []
    with StreamConsumer(server.url, stream, schema=TEXT, **options, **ME, **DRAIN) as consumer:
        for batch in consumer:
            ids += batch.ids.to_list()
    assert ids == [f"{n}-0" for n in range(2, 301, 2)]
    assert pending(client, stream) == []
    assert consumer.stats.deleted == 150


def test_deleted_entries_of_others_are_all_acknowledged_by_one_drain(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 12_000)
    deliver(client, stream, consumer="other")
    client.xtrim(stream, maxlen=3, approximate=False)
    options: dict[str, Any] = {**EAGER, "block_ms": 200, "on_idle": "stop", **ME}
    with StreamConsumer(server.url, stream, schema=NUMBER, **options) as consumer:
        assert all_rows(consumer) == [11_998, 11_999, 12_000]
    assert pending(client, stream) == []


def test_new_entries_are_collected_while_claims_are_looked_for(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """A claim does not bring new entries along, which would not wait for the batch's time."""
    client.xgroup_create(stream, "g", "0", mkstream=True)
    options: dict[str, Any] = {**EAGER, "batch_timeout_ms": 600, "block_ms": 2_000, **ME}
    consumer = StreamConsumer(server.url, stream, schema=NUMBER, ack="manual", **options)

    def add() -> None:
        for number in range(1, 4):
            client.xadd(stream, {"n": number}, id=f"{number}-0")
            time.sleep(0.1)

    with later(0.3, add):
        assert next(consumer).frame["n"].to_list() == [1, 2, 3]


# Entries that went to a connection that was lost


def test_an_entry_that_went_to_a_dead_connection_comes_when_its_block_is_over(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """The server may have noticed nothing, and gives an entry to who blocked first."""
    connection = quick(server.url, client_name="me")
    options: dict[str, Any] = {"block_ms": 1_000, "auto_ack": True, **ME}
    batches = iter_stream(connection, stream, NUMBER, **options)

    def strand() -> None:
        eventually(is_waiting(client, "me"))
        with server.client(client_name="dead") as dead:
            reading = threading.Thread(
                target=lambda: dead.xreadgroup("g", "me", {stream: ">"}, count=100, block=900)
            )
            reading.start()
            eventually(is_waiting(client, "dead"))
            client.client_kill_filter(
                _id=str(next(one["id"] for one in client.client_list() if one["name"] == "me"))
            )
            add_numbers(client, stream, 1)
            reading.join()
        add_numbers(client, stream, 2, first=2)

    came: list[int] = []
    with later(0, strand), within(8):
        while len(came) < 2:
            came += next(batches)["n"].to_list()
    assert sorted(came) == [1, 2]


def test_an_entry_on_a_dead_connection_that_is_claimed_was_not_delivered(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """A worker claims what its own dead connection was given, before its wait is over."""
    options: dict[str, Any] = {**POISON, "max_deliveries": 1, "block_ms": 0, **ME}
    consumer = StreamConsumer(
        quick(any_server.url, client_name="me"),
        stream,
        schema=NUMBER,
        reclaim_min_idle_ms=100,
        reclaim_interval_ms=1_000,
        **options,
    )

    def strand() -> None:
        eventually(is_waiting(client, "me"))
        with any_server.client(client_name="dead") as dead:
            reading = threading.Thread(
                target=lambda: dead.xreadgroup("g", "me", {stream: ">"}, count=1, block=2_000)
            )
            reading.start()
            eventually(is_waiting(client, "dead"))
            client.client_kill_filter(
                _id=str(next(one["id"] for one in client.client_list() if one["name"] == "me"))
            )
            # It has been through its pending list, and waits behind the dead one.
            eventually(is_waiting(client, "me"))
            add_numbers(client, stream, 1)
            reading.join()

    with later(0, strand), within(8):
        batch = next(consumer)
    assert batch.frame["n"].to_list() == [1]
    assert batch.delivery_counts.to_list() == [1]
    assert not client.exists("dead")


def test_replies_that_nobody_saw_do_not_count_as_deliveries(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 100)
    client.xgroup_create(stream, "g", "0")
    with Proxy(server.port) as proxy:
        fault = proxy.cut_after(100, once_seen=b"XREADGROUP", times=5)
        options: dict[str, Any] = {**POISON, **SHY, **ME, **DRAIN}
        connection = quick(proxy.url, max_retries=20)
        seen: list[int] = []
        with StreamConsumer(connection, stream, schema=NUMBER, **options) as consumer:
            for batch in consumer:
                seen += batch.frame["n"].to_list()
                assert batch.delivery_counts.to_list() == [1] * len(batch)
                assert {*counts(client, stream).values()} <= {1}
        assert fault.hits >= 3
    assert seen == [*range(1, 101)]
    assert not client.exists("dead")
    assert pending(client, stream) == []


def test_what_was_read_and_not_handed_out_does_not_count_at_a_clean_end(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {**POISON, **SHY, **ME}
    with (
        StreamConsumer(
            any_server.url, stream, schema=NUMBER, batch_timeout_ms=20_000, **options
        ) as consumer,
        later(0.5, consumer.stop),
    ):
        assert list(consumer) == []
    assert counts(client, stream) == {1: 0, 2: 0, 3: 0}


def test_what_was_not_handed_out_looks_as_if_it_had_just_been_delivered(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """To keep its idle time takes Redis 8.10 as long as there are younger pending entries."""
    add_numbers(client, stream, 3)
    client.xgroup_create(stream, "g", "0")
    options: dict[str, Any] = {**POISON, **SHY, **ME}
    with StreamConsumer(
        any_server.url, stream, schema=NUMBER, batch_timeout_ms=20_000, **options
    ) as consumer:

        def stop() -> None:
            eventually(lambda: pending(client, stream) == [1, 2, 3])
            time.sleep(0.1)
            client.xclaim(stream, "g", "other", 0, ["3-0"])
            consumer.stop()

        with later(0, stop):
            assert list(consumer) == []
    found: Any = client.xpending_range(stream, "g", "-", "+", 10)
    idle = [one["time_since_delivered"] for one in found]
    assert max(idle[:2]) <= idle[2]
    assert counts(client, stream) == {1: 0, 2: 0, 3: 2}


def drain_all(url: str, stream: str, **options: Any) -> list[int]:
    """Give the numbers of what comes until nothing is left."""
    with StreamConsumer(url, stream, schema=NUMBER, **options, **SHY, **ME, **DRAIN) as consumer:
        return all_rows(consumer)


@pytest.mark.parametrize("before", [0, 1])
def test_a_stop_after_a_lost_reply_counts_no_delivery_that_nobody_saw(
    server: Server, client: redis.Redis, stream: str, before: int
) -> None:
    add_numbers(client, stream, 5)
    client.xgroup_create(stream, "g", "0")
    if before:
        deliver(client, stream)
    options: dict[str, Any] = {**POISON, "max_deliveries": 2}
    with Proxy(server.port) as proxy:
        connection = quick(proxy.url, retry_base_delay=0.3, retry_max_delay=0.3)
        for _ in range(2):
            # Not the read that an older server refuses, as it has MAXSIZE: that one delivers
            # nothing. A read of one entry, which may be delivered once more, has none.
            refused = 0 if before else server.refused_reads
            fault = proxy.cut_after(0, once_seen=b"XREADGROUP", skip=refused)
            consumer = StreamConsumer(
                connection, stream, schema=NUMBER, **options, **SHY, **ME, **DRAIN
            )

            def stop(fault: Any = fault, consumer: StreamConsumer = consumer) -> None:
                eventually(lambda: fault.hits == 1)
                consumer.stop()

            with consumer, later(0, stop):
                assert list(consumer) == []
    assert {*counts(client, stream).values()} == {before}
    assert drain_all(server.url, stream, **options) == [1, 2, 3, 4, 5]
    assert not client.exists("dead")


@pytest.mark.parametrize("raises", [False, True])
def test_an_end_after_a_lost_reply_counts_no_delivery_that_nobody_saw(
    any_server: Server, client: redis.Redis, stream: str, raises: bool
) -> None:
    """Entries that may be delivered once more come alone: 2 is lost, and 3 comes in its stead."""
    add_numbers(client, stream, 5)
    deliver(client, stream)
    options: dict[str, Any] = {**POISON, "max_deliveries": 2}
    seen: list[int] = []
    with Proxy(any_server.port) as proxy, contextlib.suppress(ZeroDivisionError):
        proxy.cut_after(0, once_seen=b"XREADGROUP", skip=1)
        connection = quick(proxy.url)
        with StreamConsumer(
            connection, stream, schema=NUMBER, **options, **SHY, **ME, **DRAIN
        ) as consumer:
            for batch in consumer:
                # What was lost is looked up before anything else is handed out.
                assert counts(client, stream)[2] == 1 or batch.frame["n"].to_list() == [2]
                seen += batch.frame["n"].to_list()
                if len(seen) == 2:
                    if raises:
                        raise ZeroDivisionError
                    break
    assert counts(client, stream).get(2, 1) == 1
    seen += drain_all(any_server.url, stream, **options)
    assert {*seen} == {1, 2, 3, 4, 5}
    assert len(dead_ids(client) if client.exists("dead") else []) == raises


def test_a_timeout_that_ends_the_loop_counts_no_delivery_that_nobody_saw(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    client.xgroup_create(stream, "g", "0")
    options: dict[str, Any] = {**POISON, "max_deliveries": 1}
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XREADGROUP")
        connection = quick(proxy.url, response_timeout=0.3)
        with (
            pytest.raises(RedisTimeoutError),
            StreamConsumer(
                connection, stream, schema=NUMBER, **options, **SHY, **ME, **DRAIN
            ) as consumer,
        ):
            next(consumer)
    assert drain_all(any_server.url, stream, **options) == [1, 2, 3]


def test_the_rest_of_a_reply_does_not_count_at_a_clean_end(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """Bytes close the batch in the middle of a reply; what follows in it was delivered too."""
    add_large(client, stream, 200, 2_000)
    options: dict[str, Any] = {"batch_size": 1_000, "batch_bytes": 20_000, **POISON, **SHY, **ME}
    with StreamConsumer(server.url, stream, schema=TEXT, **options, **DRAIN) as consumer:
        assert 0 < len(next(consumer)) < 150  # 256 KiB more than was asked for, at most
    # The reply had more, unless MAXSIZE (Redis 8.10) ended it there.
    assert {*counts(client, stream).values()} <= {0}


def test_what_another_consumer_had_keeps_its_count_after_a_lost_reply(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """It is claimed while the server may still serve the request whose reply was lost."""
    add_numbers(client, stream, 13)
    deliver(client, stream, consumer="other", count=10)
    with Proxy(server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XREADGROUP")
        options: dict[str, Any] = {
            **POISON,
            **ME,
            "max_deliveries": 3,
            "reclaim_min_idle_ms": 200,
            "reclaim_interval_ms": 10,
            "on_idle": "stop",
            "block_ms": 800,
        }
        delivered: dict[int, int] = {}
        with StreamConsumer(quick(proxy.url), stream, schema=NUMBER, **options) as consumer:
            for batch in consumer:
                delivered |= dict(zip(batch.frame["n"], batch.delivery_counts, strict=True))
    assert delivered == {n: 2 if n <= 10 else 1 for n in range(1, 14)}


def test_a_worker_that_may_not_correct_counts_survives_a_lost_reply(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """Nothing depends on them without max_deliveries."""
    add_numbers(client, stream, 6)
    client.xgroup_create(stream, "g", "0")
    user = ["on", ">secret", "~*", "+@all", "-xclaim"]
    client.execute_command("ACL", "SETUSER", "worker", *user)
    try:
        with Proxy(server.port) as proxy:
            fault = proxy.cut_after(0, once_seen=b"XREADGROUP", skip=server.refused_reads + 1)
            connection = quick(proxy.url.replace("redis://", "redis://worker:secret@"))
            options: dict[str, Any] = {"batch_size": 2, **ME, **DRAIN}
            with StreamConsumer(connection, stream, schema=NUMBER, **options) as consumer:
                assert all_rows(consumer) == [1, 2, 3, 4, 5, 6]
            assert fault.hits == 1
    finally:
        client.execute_command("ACL", "DELUSER", "worker")


def test_claimed_entries_that_were_acknowledged_meanwhile_are_not_handed_out(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 10)
    deliver(client, stream, consumer="other")
    with Proxy(server.port) as proxy:

        def acknowledge(nth: int) -> None:
            # Its owner comes to its end after all, between the claim and the read.
            if nth == 1:
                client.xack(stream, "g", "3-0", "4-0", "10-0")

        proxy.before(b"XREADGROUP", acknowledge)
        options: dict[str, Any] = {**EAGER, **ME, **DRAIN}
        consumer = StreamConsumer(proxy.url, stream, schema=NUMBER, create_group=False, **options)
        with consumer:
            assert all_rows(consumer) == [1, 2, 5, 6, 7, 8, 9]
    assert pending(client, stream) == []


def test_what_a_worker_has_in_hand_it_never_claims(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """However long that takes: it would be delivered again, and be a dead letter in the end."""
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {**POISON, **EAGER, **ME}
    with StreamConsumer(any_server.url, stream, schema=NUMBER, ack="manual", **options) as consumer:
        held = next(consumer)
        for n in range(4, 8):
            with later(0.1, partial(add_numbers, client, stream, n, first=n)):
                batch = next(consumer)
            assert batch.frame["n"].to_list() == [n]
            assert batch.ack() == 1
        assert counts(client, stream) == {1: 1, 2: 1, 3: 1}
        # What it leaves it may claim.
        held.leave()
        again = next(consumer)
        assert again.frame["n"].to_list() == [1, 2, 3]
        assert again.delivery_counts.to_list() == [2, 2, 2]
    assert not client.exists("dead")


def test_an_acknowledgement_that_a_failover_lost_is_made_up_for(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The replica has the entry pending for the worker that has acknowledged it."""
    add_numbers(client, stream, 2)
    options: dict[str, Any] = {"batch_size": 1, **EAGER, **ME}
    with StreamConsumer(any_server.url, stream, schema=NUMBER, **options) as consumer:
        assert [next(consumer).frame["n"].item() for _ in range(2)] == [1, 2]
        eventually(lambda: pending(client, stream) == [2])
        client.xclaim(stream, "g", "me", 0, ["1-0"], force=True)
        assert next(consumer).frame["n"].to_list() == [1]
    assert pending(client, stream) == []


# Poison


def test_one_entry_that_raises_is_alone_in_the_dead_letters(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 100)
    options: dict[str, Any] = {"batch_size": 50, **POISON, **EAGER, **ME, **DRAIN}
    done: list[int] = []
    deliveries: list[int] = []
    for _ in range(5):
        try:
            with StreamConsumer(server.url, stream, schema=NUMBER, **options) as consumer:
                for batch in consumer:
                    if 30 in batch.frame["n"]:
                        deliveries.append(len(batch))
                        raise ZeroDivisionError
                    done += batch.frame["n"].to_list()
            break
        except ZeroDivisionError:
            pass
    # Its last delivery is made alone.
    assert deliveries == [50, 50, 1]
    assert sorted(done) == [n for n in range(1, 101) if n != 30]
    assert dead_ids(client) == ["30-0"]
    [letter] = letters(client)
    assert letter[b"_dead_deliveries"] == b"3"
    assert letter[b"_dead_reason"] == b"delivered 3 times, of at most 3"
    assert pending(client, stream) == []


def test_one_entry_that_ends_the_process_is_alone_in_the_dead_letters(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 300)
    script = """
    import polars as pl
    options = dict(
        group="g", consumer="me", schema={"n": pl.Int64}, dead_letter="dead", max_deliveries=3,
        on_idle="stop", block_ms=10, reclaim_min_idle_ms=0, reclaim_interval_ms=10,
    )
    with redfloe.StreamConsumer(sys.argv[1], sys.argv[2], **options) as consumer:
        for batch in consumer:
            if 7 in batch.frame["n"]:
                os.kill(os.getpid(), 9)
    """
    exits = []
    for _ in range(4):
        with python(script, any_server.url, stream) as process:
            exits.append(process.wait(20))
    assert exits == [-9, -9, -9, 0]
    assert dead_ids(client) == ["7-0"]
    assert pending(client, stream) == []


def test_exhausted_entries_that_were_deleted_are_acknowledged_and_counted(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 5)
    deliver(client, stream)
    for n in range(1, 6):
        client.xclaim(stream, "g", "me", 0, [f"{n}-0"], retrycount=3, justid=True)
    client.xdel(stream, "2-0", "4-0", "5-0")
    options: dict[str, Any] = {**POISON, **SHY, **ME, **DRAIN}
    with StreamConsumer(any_server.url, stream, schema=NUMBER, **options) as consumer:
        assert list(consumer) == []
    assert (consumer.stats.dead_lettered, consumer.stats.deleted) == (2, 3)
    assert dead_ids(client) == ["1-0", "3-0"]
    assert pending(client, stream) == []


def test_with_one_delivery_each_entry_comes_alone(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The first delivery is the last one that is allowed."""
    add_numbers(client, stream, 5)
    options: dict[str, Any] = {"max_deliveries": 1, "dead_letter": "dead", **SHY, **ME, **DRAIN}
    with StreamConsumer(any_server.url, stream, schema=NUMBER, **options) as consumer:
        assert [batch.frame["n"].to_list() for batch in consumer] == [[1], [2], [3], [4], [5]]


# Groups that are there, and those that get lost


def test_a_group_that_is_there_needs_no_permission_to_create_one(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    client.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all", "-xgroup")
    url = server.url.replace("redis://", "redis://worker:secret@")
    try:
        with pytest.raises(AuthenticationError, match=r"(?i)xgroup"):
            next(iter(StreamConsumer(url, stream, schema=NUMBER, **ME, **DRAIN)))
        client.xgroup_create(stream, "g", "0")
        assert read_stream(url, stream, NUMBER, count=1, **ME)["n"].to_list() == [1]
        assert next(iter_stream(url, stream, NUMBER, **ME))["n"].to_list() == [1]
        with StreamConsumer(url, stream, schema=NUMBER, **SHY, **ME, **DRAIN) as consumer:
            assert all_rows(consumer) == [1, 2, 3]
        # Nor to ask which groups there are.
        client.execute_command("ACL", "SETUSER", "worker", "-xinfo")
        deliver(client, stream)
        assert list(iter_stream(url, stream, NUMBER, **ME, **DRAIN)) == []
    finally:
        client.execute_command("ACL", "DELUSER", "worker")


def test_a_worker_starts_where_memory_is_full(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """XGROUP CREATE needs memory; reading what makes room does not."""
    add_numbers(client, stream, 100)
    client.xgroup_create(stream, "g", "0")
    info: Any = client.info("memory")
    client.config_set("maxmemory", info["used_memory"] - 100_000)
    try:
        with StreamConsumer(server.url, stream, schema=NUMBER, **SHY, **ME, **DRAIN) as consumer:
            assert all_rows(consumer) == [*range(1, 101)]
        assert read_stream(server.url, stream, NUMBER, **ME).height == 0
        assert list(iter_stream(server.url, stream, NUMBER, **ME, **DRAIN)) == []
    finally:
        client.config_set("maxmemory", 0)


RECREATE: dict[str, Any] = {"on_group_lost": "recreate", **SHY, **ME}


def test_what_was_collected_before_a_group_got_lost_comes_once(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 5)
    options: dict[str, Any] = {"batch_timeout_ms": 1_500, "block_ms": 1_000, "on_idle": "stop"}
    with StreamConsumer(server.url, stream, schema=NUMBER, **options, **RECREATE) as consumer:

        def lose() -> None:
            client.xgroup_destroy(stream, "g")
            add_numbers(client, stream, 6, first=6)

        with later(0.5, lose):
            assert all_rows(consumer) == [1, 2, 3, 4, 5, 6]
    assert pending(client, stream) == []


def test_an_older_batch_in_hand_is_pending_again_in_the_new_group(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 6)
    options: dict[str, Any] = {"ack": "manual", "batch_size": 2, **DRAIN, **RECREATE}
    with StreamConsumer(server.url, stream, schema=NUMBER, **options) as consumer:
        first, second = next(consumer), next(consumer)
        assert second.ack() == 2
        client.xgroup_destroy(stream, "g")
        # What is in hand does not come again, nor does what is done with.
        assert next(consumer).frame["n"].to_list() == [5, 6]
        assert pending(client, stream) == [1, 2, 5, 6]
        assert first.ack() == 2
        assert pending(client, stream) == [5, 6]


@pytest.mark.parametrize("connection", ["the same", "another"])
def test_entries_that_are_acknowledged_row_by_row_count_as_a_position(
    server: Server, client: redis.Redis, stream: str, connection: str
) -> None:
    """Whoever acknowledges them in this process, and not what another consumer was done with."""
    add_numbers(client, stream, 8)
    options: dict[str, Any] = {"ack": "manual", "batch_size": 2, **DRAIN, **RECREATE}
    url: Any = server.url
    if connection == "another":
        url = RedisConnection(server.url, client_name="another", max_retries=1)
    with StreamConsumer(server.url, stream, schema=NUMBER, **options) as consumer:
        first = next(consumer)
        deliver(client, stream, 2, "another")
        second = next(consumer)
        # In another database the same names are another group.
        assert ack_entries(f"{server.url}/1", stream, "g", second.ids) == 0
        assert ack_entries(url, stream, "g", ["3-0", "4-0"]) == 2
        for entry in [*first.ids, *second.ids]:
            assert ack_entries(url, stream, "g", [entry]) == 1
        client.xgroup_destroy(stream, "g")
        assert next(consumer).frame["n"].to_list() == [7, 8]
        assert pending(client, stream) == [7, 8]
        assert consumer.stats.acknowledged == 4


def test_a_group_that_begins_at_the_newest_entry_begins_there_again(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {"group_start_id": "$", "block_ms": 300, **RECREATE}
    with Proxy(server.port) as proxy:
        consumer = StreamConsumer(proxy.url, stream, schema=NUMBER, **options)

        def lose() -> None:
            eventually(lambda: proxy.count(b"XREADGROUP") > 0)
            client.xgroup_destroy(stream, "g")
            add_numbers(client, stream, 5, first=4)

        with later(0.3, lose), within(8):
            assert next(consumer).frame["n"].to_list() == [4, 5]
        # Also one that somebody else had created.
    client.delete(stream)
    add_numbers(client, stream, 3)
    client.xgroup_create(stream, "g", "$")
    with Proxy(server.port) as proxy:
        consumer = StreamConsumer(proxy.url, stream, schema=NUMBER, **options)
        with later(0.3, lose), within(8):
            assert next(consumer).frame["n"].to_list() == [4, 5]


def test_a_lost_group_is_not_created_unless_that_is_asked_for(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Though one that was missing at the start would be."""
    add_numbers(client, stream, 2)
    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, block_ms=0, **SHY, **ME)
    assert next(consumer).frame["n"].to_list() == [1, 2]
    client.xgroup_destroy(stream, "g")
    with pytest.raises(NoGroupError):
        next(consumer)
