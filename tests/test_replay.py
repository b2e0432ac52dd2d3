"""Dead letters as a frame, and back into their streams: each exactly once."""

from __future__ import annotations

import asyncio
import signal
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    AuthenticationError,
    DecodeError,
    RedfloeError,
    RedisConnection,
    RedisConnectionError,
    ResponseError,
    WrongTypeError,
)
from support.consumers import SHY, World, letters
from support.groups import DRAIN, ME
from support.proxy import Proxy
from support.secrets import PASSWORD, with_password
from support.server import Server
from support.streams import NUMBER, add_numbers, add_raw

pytestmark = pytest.mark.timeout(20)

DEAD: dict[str, Any] = {"dead_letter": "dead"}
STORY = {
    "_dead_stream": pl.String,
    "_dead_id": pl.String,
    "_dead_group": pl.String,
    "_dead_consumer": pl.String,
    "_dead_deliveries": pl.Int64,
    "_dead_reason": pl.String,
    "_dead_time": pl.Datetime("ms", "UTC"),
}


@pytest.fixture
def read(world: World) -> Any:
    """`read_dead_letters`, or its twin in an event loop."""
    if world.runner is None:
        return redfloe.read_dead_letters
    return lambda *args, **options: world.do(redfloe.read_dead_letters_async(*args, **options))


@pytest.fixture
def replay(world: World) -> Any:
    """`replay_dead_letters`, or its twin in an event loop."""
    if world.runner is None:
        return redfloe.replay_dead_letters
    return lambda *args, **options: world.do(redfloe.replay_dead_letters_async(*args, **options))


def fail(url: str, stream: str, *ids: str, reason: str = "why") -> None:
    """Have a worker put entries aside."""
    worker = redfloe.StreamConsumer(url, stream, **SHY, **DEAD, **ME, **DRAIN)
    with worker:
        for batch in worker:
            batch.fail([entry for entry in batch.ids if not ids or entry in ids], reason)


def entries(client: redis.Redis, stream: str) -> list[dict[bytes, bytes]]:
    return letters(client, stream)


def ids_of(client: redis.Redis, stream: str) -> list[str]:
    found: Any = client.xrange(stream)
    return [entry.decode() for entry, _ in found]


def test_dead_letters_are_typed(
    any_server: Server, client: redis.Redis, stream: str, read: Any
) -> None:
    client.xadd(stream, {"n": "1", "word": "one"}, id="1-0")
    client.xadd(stream, {"n": "many", "word": "two"}, id="2-0")
    fail(any_server.url, stream, reason="no\nreason")
    schema = {"word": pl.String, "n": pl.Int64}
    frame = read(any_server.url, "dead", schema)
    assert frame.schema == {"_id": pl.String, "_ts": pl.Int64, **schema, **STORY}
    # What does not fit its dtype may be why it was put aside.
    story = ["word", "n", *list(STORY)[:-1]]
    assert frame.select(story).rows() == [
        ("one", 1, stream, "1-0", "g", "me", 1, "no\nreason"),
        ("two", None, stream, "2-0", "g", "me", 1, "no\nreason"),
    ]
    assert abs(frame["_dead_time"][0] - datetime.now(UTC)) < timedelta(minutes=1)
    with pytest.raises(DecodeError, match="many"):
        read(any_server.url, "dead", schema, on_error="raise")
    rescued = read(any_server.url, "dead", schema, rescue_column="rest", count=2)
    assert rescued["rest"].to_list() == [None, '{"n":"many"}']
    assert read(any_server.url, "dead", schema, frame["_id"][1])["_dead_id"].to_list() == ["2-0"]


def test_without_a_schema_fields_are_text_and_what_is_said_of_them_comes_last(
    any_server: Server, client: redis.Redis, stream: str, read: Any
) -> None:
    client.xadd(stream, {"a": "1"}, id="1-0")
    client.xadd(stream, {"b": "2"}, id="2-0")
    fail(any_server.url, stream)
    frame = read(any_server.url, "dead", include_timestamp=False)
    assert frame.schema == {"_id": pl.String, "a": pl.String, "b": pl.String, **STORY}
    assert frame.select("a", "b", "_dead_deliveries").rows() == [("1", None, 1), (None, "2", 1)]
    assert frame["_dead_time"].null_count() == 0


def test_no_dead_letters(
    any_server: Server, client: redis.Redis, stream: str, read: Any, replay: Any
) -> None:
    metadata = {"_id": pl.String, "_ts": pl.Int64}
    for frame in (read(any_server.url, stream), read(any_server.url, stream, count=0)):
        assert (frame.schema, frame.height) == ({**metadata, **STORY}, 0)
    frame = read(any_server.url, stream, NUMBER)
    assert (frame.schema, frame.height) == ({**metadata, **NUMBER, **STORY}, 0)
    replayed = replay(any_server.url, stream, NUMBER)
    assert replayed.schema == {**metadata, **NUMBER, **STORY, "_replayed_id": pl.String}
    assert not client.exists(stream)
    # An entry that is none has nulls.
    add_numbers(client, stream, 1)
    frame = read(any_server.url, stream, NUMBER)
    assert frame["n"].to_list() == [1]
    assert frame.select(*STORY).rows() == [(None,) * 7]


def test_what_is_read_afterwards_has_the_defaults_that_it_had(
    any_server: Server, client: redis.Redis, stream: str, read: Any
) -> None:
    client.xadd(stream, {"n": "x"})
    read(any_server.url, "dead", NUMBER)
    with pytest.raises(DecodeError):
        redfloe.read_stream(any_server.url, stream, NUMBER)


@pytest.mark.parametrize("fields", [1, 3_949, 3_951, 5_000])
def test_a_replayed_letter_is_its_entry_again(
    server: Server, client: redis.Redis, stream: str, replay: Any, fields: int
) -> None:
    """Lua passes no more than 8,000 arguments on."""
    parts = [b"n", b"\xff\n", b"n", b"again"]
    for field in range(2, fields):
        parts += [b"f%d" % field, b""]
    add_raw(client, stream, "1-0", *parts)
    fail(server.url, stream)
    before = redfloe.read_dead_letters(server.url, "dead", max_columns=9_000)
    replayed = replay(server.url, "dead", max_columns=9_000)
    assert_frame_equal(replayed.drop("_replayed_id"), before)
    assert client.xlen("dead") == 0
    found: Any = client.eval("return redis.call('XRANGE', KEYS[1], '-', '+')", 1, stream)
    [[_, old], [new_id, new]] = found
    assert old == new == parts
    assert replayed["_replayed_id"].to_list() == [new_id.decode()]
    assert replay(server.url, "dead").height == 0


def test_an_entrys_field_is_not_taken_for_the_new_id(
    any_server: Server, client: redis.Redis, stream: str, replay: Any
) -> None:
    client.xadd(stream, {"n": "1", "_replayed_id": "999-9"}, id="1-0")
    fail(any_server.url, stream)
    with pytest.raises(ValueError, match="id_column must not be '_replayed_id'"):
        replay(any_server.url, "dead", id_column="_replayed_id")
    assert client.xlen("dead") == 1
    replayed = replay(any_server.url, "dead")
    assert replayed["_replayed_id"].to_list() == ids_of(client, stream)[1:]
    assert entries(client, stream)[1] == {b"n": b"1", b"_replayed_id": b"999-9"}


def test_letters_go_back_to_the_streams_they_are_from_in_order(
    any_server: Server, client: redis.Redis, stream: str, replay: Any
) -> None:
    other = b"other\xff"
    for number in range(1, 251):
        wide: dict[Any, Any] = {f"f{n}": "" for n in range(4_200)} if number in (3, 200) else {}
        client.xadd(stream if number % 2 else other, {"n": number, **wide}, id=f"{number}-0")
    for key in (stream, other):
        fail(any_server.url, key)  # type: ignore[arg-type]  # bytes are a stream's key too
    # Wide ones were put aside after others.
    order = [int(letter[b"n"]) for letter in letters(client)]
    replayed = replay(any_server.url, "dead", NUMBER)
    assert client.xlen("dead") == 0
    for key, odd in ((stream, 1), (other, 0)):
        numbers = [int(entry[b"n"]) for entry in entries(client, key)]  # type: ignore[arg-type]
        ours = [number for number in order if number % 2 == odd]
        assert numbers == sorted(ours) + ours
    assert replayed["n"].to_list() == order
    assert replayed["_replayed_id"].null_count() == 0
    assert replayed["_dead_stream"].null_count() == 125  # it is no text


def test_letters_are_chosen(
    any_server: Server, client: redis.Redis, stream: str, read: Any, replay: Any
) -> None:
    add_numbers(client, stream, 9)
    fail(any_server.url, stream)
    url, ids = any_server.url, read(any_server.url, "dead")["_id"]
    assert replay(url, "dead", ids=ids[0])["_dead_id"].to_list() == ["1-0"]
    again = replay(url, "dead", ids=[ids[0], ids[2], ids[1], "9-9"])
    assert again["_dead_id"].to_list() == ["2-0", "3-0"]
    where = pl.col("n") == pl.col("n").max()
    assert replay(url, "dead", NUMBER, where=where)["n"].to_list() == [9]
    assert replay(url, "dead", NUMBER, ids=ids[:5], where=pl.col("n") > 4)["n"].to_list() == [5]
    bounded = replay(url, "dead", NUMBER, ids[5], ids[7], count=2)
    assert bounded["n"].to_list() == [6, 7]
    renamed = replay(url, "dead", NUMBER, id_column="letter", include_id=False, count=1)
    assert renamed.columns[:3] == ["letter", "_ts", "n"]
    assert renamed["n"].to_list() == [4]
    assert read(url, "dead", NUMBER)["n"].to_list() == [8]
    numbers = [int(entry[b"n"]) for entry in entries(client, stream)]
    assert numbers == [*range(1, 10), 1, 2, 3, 9, 5, 6, 7, 4]
    with pytest.raises(TypeError, match="IDs go to ids"):
        replay(url, "dead", where=ids)
    for wrong in ("x", ["5"], [f"{ids[7]} "]):
        with pytest.raises(ValueError, match="no entry ID"):
            replay(url, "dead", ids=wrong)
    assert client.xlen("dead") == 1


def test_a_replayed_letter_may_die_again(
    any_server: Server, client: redis.Redis, stream: str, read: Any, replay: Any
) -> None:
    add_numbers(client, stream, 1)
    fail(any_server.url, stream)
    replayed = replay(any_server.url, "dead", NUMBER)
    fail(any_server.url, stream, reason="again")
    frame = read(any_server.url, "dead", NUMBER)
    assert frame.select("n", "_dead_id", "_dead_reason").rows() == [
        (1, replayed["_replayed_id"].item(), "again")
    ]


def test_a_dead_letter_of_a_dead_letter_goes_back_to_the_dead_letters(
    any_server: Server, client: redis.Redis, stream: str, replay: Any
) -> None:
    add_numbers(client, stream, 1)
    fail(any_server.url, stream)
    [letter] = letters(client)
    worker = redfloe.StreamConsumer(any_server.url, "dead", dead_letter="deader", **ME, **DRAIN)
    with worker:
        for batch in worker:
            batch.fail(batch.ids, "dead already")
    assert replay(any_server.url, "deader")["_dead_stream"].to_list() == ["dead"]
    assert letters(client) == [letter, letter]
    assert letters(client, "deader") == []


def test_what_is_no_dead_letter_is_refused(
    any_server: Server, client: redis.Redis, stream: str, replay: Any
) -> None:
    add_numbers(client, stream, 2)
    with pytest.raises(ValueError, match="the entry 1-0 is no dead letter"):
        replay(any_server.url, stream)
    assert client.xlen(stream) == 2


@pytest.mark.parametrize(
    ("trouble", "fields"),
    [
        *((trouble, 1) for trouble in ("type", "delete", "add", "ids")),
        *((trouble, 4_500) for trouble in ("type", "delete", "add", "ids")),
        ("memory", 4_500),  # a script that adds as much as it deletes may go on
    ],
)
def test_a_letter_that_cannot_be_replayed_is_named_and_stays(
    server: Server, client: redis.Redis, stream: str, replay: Any, trouble: str, fields: int
) -> None:
    other = f"{stream}:other"
    client.xadd(other, {"n": 1})
    client.xadd(stream, {"n": 2, **{f"f{n}": "" for n in range(1, fields)}})
    for key in (other, stream):
        fail(server.url, key)
    ids = ids_of(client, "dead")
    error: type[RedfloeError] = ResponseError
    url, match = server.url, "maxmemory"
    match trouble:
        case "type":
            client.delete(stream)
            client.set(stream, "x")
            error, match = WrongTypeError, "something else"
        case "delete" | "add":
            denied = {"delete": "-xdel", "add": "-xadd"}[trouble]
            acl = ("ACL", "SETUSER", "clerk", "reset", "on", f">{PASSWORD}", "~*", "+@all", denied)
            client.execute_command(*acl)
            url = with_password(server.url, user="clerk")
            error, match = AuthenticationError, "XDEL"
        case "ids":
            # No ID is left.
            client.xadd(stream, {"n": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
            match = "last possible ID"
    chosen = {"ids": ids[1]} if trouble in ("delete", "add", "memory") else {}
    try:
        if trouble == "memory":
            client.config_set("maxmemory", 1)
        with pytest.raises(error, match=match) as raised:
            replay(RedisConnection(url, max_retries=0), "dead", max_columns=9_000, **chosen)
    finally:
        client.config_set("maxmemory", 0)
        client.execute_command("ACL", "DELUSER", "clerk")
    assert PASSWORD not in str(raised.value)
    if not chosen:  # the one before it was replayed
        assert raised.value.__notes__ == ["1 dead letter was replayed before"]
        assert client.xlen(other) == 2
    assert ids_of(client, "dead")[-1:] == ids[1:]
    if trouble != "memory":
        assert f"the dead letter {ids[1]}" in str(raised.value)
    if trouble in ("delete", "add"):
        assert client.xlen(stream) == 1


@pytest.mark.parametrize("fields", [1, 4_500])
@pytest.mark.parametrize("skip", [0, 1])
def test_a_lost_reply_replays_nothing_twice_and_says_what_was_replayed(
    any_server: Server, client: redis.Redis, stream: str, replay: Any, skip: int, fields: int
) -> None:
    for number in range(1, 4):
        client.xadd(stream, {"n": number, **{f"f{n}": "" for n in range(1, fields)}})
    fail(any_server.url, stream)
    with Proxy(any_server.port) as proxy:
        # The first script only looks.
        lost = b"EXEC" if fields > 1 else b"EVAL"
        proxy.cut_after(0, once_seen=lost, skip=skip)
        replayed = replay(proxy.url, "dead", NUMBER)
        assert proxy.connections > 1
    assert replayed["n"].to_list() == [1, 2, 3]
    assert [int(entry[b"n"]) for entry in entries(client, stream)] == [1, 2, 3] * 2
    assert client.xlen("dead") == 0
    told = zip(replayed["_replayed_id"], ids_of(client, stream)[3:], strict=True)
    assert all(said in (None, entry) for said, entry in told)


def test_a_connection_that_stays_lost_says_what_to_do(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.xadd(stream, {"n": 1})
    fail(any_server.url, stream)
    [letter] = ids_of(client, "dead")
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"EVAL", skip=1)
        with pytest.raises(RedisConnectionError, match=f"from {letter} on may have been"):
            redfloe.replay_dead_letters(RedisConnection(proxy.url, max_retries=0), "dead")
    redfloe.replay_dead_letters(any_server.url, "dead")
    assert client.xlen(stream) == 2


@pytest.mark.parametrize("fields", [1, 4_500])
def test_two_that_replay_at_once_replay_each_letter_once(
    any_server: Server, client: redis.Redis, stream: str, fields: int
) -> None:
    many = 300 if fields == 1 else 12
    for number in range(many):
        client.xadd(stream, {"n": number, **{f"f{n}": "" for n in range(1, fields)}})
    fail(any_server.url, stream)
    frames: list[pl.DataFrame] = []

    def replay() -> None:
        frames.append(redfloe.replay_dead_letters(any_server.url, "dead", NUMBER))

    threads = [threading.Thread(target=replay) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pl.concat(frames)["n"]) == [*range(many)]
    assert sorted(int(entry[b"n"]) for entry in entries(client, stream)) == sorted(
        [*range(many)] * 2
    )
    assert client.xlen("dead") == 0


def test_a_letter_that_another_replays_meanwhile_is_replayed_once(
    any_server: Server, client: redis.Redis, stream: str, replay: Any
) -> None:
    """The entry is written before the script can see whether the letter is still there."""
    client.xadd(stream, {f"f{n}": "" for n in range(4_500)})
    fail(any_server.url, stream)
    with Proxy(any_server.port) as proxy:
        proxy.before(b"MULTI", lambda _: redfloe.replay_dead_letters(any_server.url, "dead"))
        assert replay(proxy.url, "dead", max_columns=9_000).height == 0
    assert client.xlen(stream) == 2


def test_ack_entries_in_an_event_loop(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    add_numbers(client, stream, 3)
    frame = redfloe.read_stream(any_server.url, stream, NUMBER, group="g", consumer="me")

    async def acknowledge(ids: Any) -> int:
        return await redfloe.ack_entries_async(any_server.url, stream, "g", ids)

    assert runner.run(acknowledge(frame["_id"][:2])) == 2
    assert runner.run(acknowledge(["2-0", "3-0"])) == 1
    with pytest.raises(TypeError, match="several"):
        runner.run(acknowledge("3-0"))
    with pytest.raises(ValueError, match="x"):
        runner.run(acknowledge(["x"]))


@pytest.mark.parametrize(
    ("gone", "answered", "notes"),
    [
        (0, 5, ["at least 200 dead letters were replayed before; they do not come twice"]),
        (99, 3, ["at least 1 dead letter was replayed before; it does not come twice"]),
        (0, 0, []),
    ],
)
def test_ctrl_c_tells_how_many_were_replayed(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    gone: int,
    answered: int,
    notes: list[str],
) -> None:
    for n in range(250):
        story = dict.fromkeys(STORY, "1") | {"_dead_stream": stream, "_dead_id": f"{n + 1}-0"}
        letter: Any = {"n": n} | story
        client.xadd("dead", letter, id=f"{n + 1}-0")

    def before_script(number: int) -> None:
        if number == 1:
            client.xtrim("dead", maxlen=250 - gone, approximate=False)
        if number == answered + 1:
            signal.raise_signal(signal.SIGINT)

    with Proxy(any_server.port) as proxy:
        # Each hundred takes two scripts.
        proxy.before(b"EVAL", before_script)
        proxy.stall_after(0, once_seen=b"EVAL", skip=answered)
        with pytest.raises(KeyboardInterrupt) as caught:
            redfloe.replay_dead_letters(proxy.url, "dead")
    assert getattr(caught.value, "__notes__", []) == notes
    assert answered // 2 * 100 - gone <= client.xlen(stream) <= 250
