"""Sharded streams: where entries go, and what reads and works on them by their name."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest
import redis
import xxhash
from polars.testing import assert_frame_equal

import redfloe
from redfloe import SchemaError, WrongTypeError
from support.consumers import World
from support.server import Server
from support.shards import SCHEMA, TAGS, frame, without_ids


@pytest.fixture
def events(any_server: Server, stream: str) -> str:
    redfloe.write_stream(any_server.url, frame(), stream, shards=8, shard_by="user")
    return stream


def readers() -> dict[str, Any]:
    def in_loop(url: str, stream: str, **options: Any) -> pl.DataFrame:
        return asyncio.run(redfloe.read_stream_async(url, stream, SCHEMA, **options))

    return {
        "read": lambda url, stream, **o: redfloe.read_stream(url, stream, SCHEMA, **o),
        "read with a bar": lambda url, stream, **o: redfloe.read_stream(
            url, stream, SCHEMA, progress=True, **o
        ),
        "async": in_loop,
        "async with a bar": lambda url, stream, **o: in_loop(url, stream, progress=True, **o),
        "scan": lambda url, stream, **o: redfloe.scan_stream(url, stream, SCHEMA, **o).collect(),
        "scan without a schema": lambda url, stream, **o: redfloe.scan_stream(
            url, stream, infer_schema=True, **o
        ).collect(),
        "reader": lambda url, stream, **o: pl.DataFrame(
            redfloe.stream_reader(url, stream, SCHEMA, **o)
        ),
        "pattern": lambda url, stream, **o: redfloe.read_streams(
            url, f"{stream}:*", SCHEMA, **{"include_stream": False} | o
        ),
    }


@pytest.mark.parametrize("reader", readers())
def test_readers_take_the_name(any_server: Server, events: str, reader: str) -> None:
    read = readers()[reader]
    rows = read(any_server.url, events)
    assert rows.columns == ["_id", "_ts", "user", "n"]
    assert_frame_equal(without_ids(rows), frame())
    merged = read(any_server.url, events, order="id")
    assert merged["_id"].to_list() == sorted(merged["_id"], key=redfloe_order)
    assert_frame_equal(read(any_server.url, events, order="id", count=7), merged.head(7))
    assert_frame_equal(read(any_server.url, events, order="id", last=7), merged.tail(7))
    named = read(any_server.url, events, include_stream=True)
    assert named["_stream"].unique(maintain_order=True).to_list() == [
        f"{events}:{{{tag}}}" for tag in TAGS
    ]


@pytest.mark.parametrize("reader", readers())
def test_a_stream_whose_shards_are_partly_empty_exists(
    any_server: Server, stream: str, reader: str
) -> None:
    one = frame().head(1)
    redfloe.write_stream(any_server.url, one, stream, shards=8, shard_by="user")
    rows = readers()[reader](any_server.url, stream, must_exist=True)
    assert_frame_equal(without_ids(rows), one)


def test_workers_and_parts_of_a_stream_whose_shards_are_partly_empty(
    any_server: Server, stream: str, world: World, tmp_path: Any
) -> None:
    url = any_server.url
    redfloe.write_stream(url, frame().head(1), stream, shards=8, shard_by="user")
    options: dict[str, Any] = {"must_exist": True, "on_idle": "stop", "block_ms": 1}
    for where in ({"group": "g", "consumer": "c"}, {}):
        with world.consumer(url, stream, SCHEMA, **where, **options) as consumer:
            assert [batch.frame.height for batch in consumer] == [1]
    parts = redfloe.split_stream(url, stream, 3, must_exist=True)
    parts += asyncio.run(redfloe.split_stream_async(url, stream, 3, must_exist=True))
    assert sum(part.read().height for part in parts) == 2
    assert [*redfloe.infer_schema(url, stream, must_exist=True)] == ["user", "n"]
    with redfloe.StreamProcessor(url, stream, name="p", schema=SCHEMA, **options) as processor:
        assert [tx.frame.height for tx in processor] == [1]
    done = redfloe.archive(url, stream, SCHEMA, to=str(tmp_path), until="now", must_exist=True)
    assert done.entries == 1


def redfloe_order(entry_id: str) -> tuple[int, int]:
    ms, seq = entry_id.split("-")
    return int(ms), int(seq)


def test_rows_of_one_value_are_in_one_shard_in_order(any_server: Server, events: str) -> None:
    rows = redfloe.read_stream(any_server.url, events, SCHEMA, include_stream=True)
    by_user = rows.group_by("user").agg(pl.col("_stream").n_unique(), pl.col("n"))
    assert by_user["_stream"].unique().to_list() == [1]
    assert all(numbers.is_sorted() for numbers in by_user["n"])


def test_other_languages_write_and_read_by_what_is_documented(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    layout = {"redfloe": "sharded-stream", "shards": 8, "hash": "xxh64", "by": "user"}
    client.hset(stream, mapping=layout)  # type: ignore[arg-type]  # its stubs know of bytes alone
    keys = [f"{stream}:{{{tag}}}" for tag in TAGS]
    for user, n in frame(100).iter_rows():
        shard = xxhash.xxh64_intdigest(user.encode()) % 8
        client.xadd(keys[shard], {"user": user, "n": n})
    assert_frame_equal(without_ids(redfloe.read_stream(any_server.url, stream, SCHEMA)), frame(100))
    redfloe.write_stream(any_server.url, frame(100).with_columns(pl.col("n") + 100), stream)
    for shard, key in enumerate(keys):
        entries: Any = client.xrange(key)
        users = {fields[b"user"] for _, fields in entries}
        assert {xxhash.xxh64_intdigest(user) % 8 for user in users} <= {shard}
    assert sum(client.xlen(key) for key in keys) == 200


@pytest.mark.parametrize("options", [{}, {"shards": 8, "shard_by": "user"}], ids=["found", "named"])
def test_a_later_write_goes_to_the_same_shards(
    any_server: Server, events: str, options: Any
) -> None:
    ids = redfloe.write_stream(any_server.url, frame(), events, **options)
    assert ids.len() == 500
    assert ids.null_count() == 0
    write = redfloe.write_stream_async(any_server.url, frame(), events, **options)
    assert asyncio.run(write).len() == 500
    rows = redfloe.read_stream(any_server.url, events, SCHEMA, include_stream=True)
    assert rows.group_by("user").agg(pl.col("_stream").n_unique())["_stream"].max() == 1
    assert rows.height == 1500


def test_ids_nulls_payloads_and_rows_at_once(any_server: Server, stream: str) -> None:
    url = any_server.url
    rows = pl.DataFrame({"user": ["a", None, "b", ""], "n": [1, 2, 3, 4], "at": [5, 6, 7, 8]})
    write: Any = {"shards": 4, "shard_by": "user", "atomic": True}
    ids = redfloe.write_stream(url, rows, stream, timestamp_column="at", **write)
    assert ids.to_list() == ["5-0", "6-0", "7-0", "8-0"]
    found = redfloe.read_stream(url, stream, SCHEMA, order="id", include_stream=True)
    assert found["n"].to_list() == [1, 2, 3, 4]
    # An entry without the field is where one with an empty field is.
    assert found["_stream"][1] == found["_stream"][3]
    redfloe.write_stream(url, rows, f"{stream}:doc", payload="data", **write)
    documents = redfloe.read_stream(url, f"{stream}:doc", SCHEMA, payload="data")
    assert documents["n"].sort().to_list() == [1, 2, 3, 4]
    redfloe.write_stream(url, rows.clear(), f"{stream}:none", **write)
    assert redfloe.read_stream(url, f"{stream}:none", SCHEMA).is_empty()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"shards": 4, "shard_by": "user"}, ValueError, '8 shards by "user".*4 shards.*-2"'),
        ({"shards": 8, "shard_by": "n"}, ValueError, '8 shards by "user".*8 shards by "n"'),
        ({"shards": 8, "shard_by": "usr"}, SchemaError, "user"),
        ({"shards": 0, "shard_by": "user"}, ValueError, "1 to 256"),
        ({"shards": 257, "shard_by": "user"}, ValueError, "1 to 256"),
        ({"shards": 8}, TypeError, "go together"),
        ({"shard_by": "user"}, TypeError, "go together"),
        ({"fields": ["n"], "shards": 8, "shard_by": "user"}, SchemaError, "user"),
        ({"fields": ["n"]}, SchemaError, "user"),
    ],
)
def test_what_is_refused(
    any_server: Server, events: str, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        redfloe.write_stream(any_server.url, frame(), events, **options)
    assert redfloe.read_stream(any_server.url, events, SCHEMA).height == 500


def test_names_that_cannot_be(any_server: Server, client: redis.Redis, stream: str) -> None:
    shards: Any = {"shards": 2, "shard_by": "user"}
    with pytest.raises(ValueError, match="brace"):
        redfloe.write_stream(any_server.url, frame(), "{a}:events", **shards)
    with pytest.raises(ValueError, match="one stream"):
        redfloe.write_stream(any_server.url, frame(), pl.lit(stream), **shards)
    client.xadd(stream, {"user": "a"})
    with pytest.raises(WrongTypeError, match="name of its own"):
        redfloe.write_stream(any_server.url, frame(), stream, **shards)
    client.hset(f"{stream}:hash", "a", "1")
    for use in (
        lambda: redfloe.read_stream(any_server.url, f"{stream}:hash"),
        lambda: redfloe.scan_stream(any_server.url, f"{stream}:hash", SCHEMA).collect(),
        lambda: redfloe.write_stream(any_server.url, frame(), f"{stream}:hash"),
        lambda: next(redfloe.iter_stream(any_server.url, f"{stream}:hash", start_id="-")),
        lambda: redfloe.split_stream(any_server.url, f"{stream}:hash", 2),
        lambda: redfloe.stream_offsets(any_server.url, f"{stream}:hash"),
    ):
        # Polars may wrap it in an error of its own.
        with pytest.raises((WrongTypeError, pl.exceptions.ComputeError), match=r"WRONGTYPE|hash"):
            use()
    client.hset(f"{stream}:later", mapping={"redfloe": "sharded-stream", "shards": "2"})
    with pytest.raises(redfloe.ResponseError, match="another version"):
        redfloe.read_stream(any_server.url, f"{stream}:later")


def test_of_several_who_create_it_one_decides(any_server: Server, stream: str) -> None:
    def write(shards: int) -> bool:
        try:
            redfloe.write_stream(any_server.url, frame(9), stream, shards=shards, shard_by="user")
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(write, [2, 3, 2, 3, 2, 3, 2, 3]))
    assert sum(written) == 4
    assert redfloe.read_stream(any_server.url, stream).height == 36


def test_a_plain_stream_is_read_without_another_question(own: Server) -> None:
    client = own.client()
    redfloe.write_stream(own.url, frame(), "plain")
    redfloe.read_stream(own.url, "plain", SCHEMA)
    redfloe.scan_stream(own.url, "plain", SCHEMA).collect()
    list(redfloe.iter_stream(own.url, "plain", start_id="-", on_idle="stop", block_ms=1))
    redfloe.read_stream(own.url, "plain", group="g", consumer="c")
    redfloe.split_stream(own.url, "plain", 2)
    assert "cmdstat_hgetall" not in client.info("commandstats")


def test_followers_take_the_name(any_server: Server, events: str, world: World) -> None:
    url = any_server.url
    follow: Any = {"start_id": "-", "on_idle": "stop", "block_ms": 1}

    async def batches(**options: Any) -> list[pl.DataFrame]:
        return [b async for b in redfloe.stream_batches(url, events, SCHEMA, **follow | options)]

    def followed(**options: Any) -> pl.DataFrame:
        if world.runner is None:
            return pl.concat(redfloe.iter_stream(url, events, SCHEMA, **follow | options))
        return pl.concat(world.runner.run(batches(**options)))

    assert_frame_equal(without_ids(followed()), frame())
    of_group = followed(group="g", consumer="c", start_id=None, auto_ack=True)
    assert_frame_equal(without_ids(of_group), frame())
    newest = redfloe.iter_stream(url, events, SCHEMA, on_idle="stop", block_ms=1)
    redfloe.write_stream(url, frame(3), events)
    assert_frame_equal(without_ids(pl.concat(newest)), frame(3))


def test_workers_share_the_shards(any_server: Server, events: str, world: World) -> None:
    seen: list[pl.DataFrame] = []
    options: Any = {"group": "g", "batch_size": 100, "on_idle": "stop", "block_ms": 1}
    with world.consumer(any_server.url, events, SCHEMA, consumer="one", **options) as one:
        seen.append(next(one).frame)
        with world.consumer(any_server.url, events, SCHEMA, consumer="two", **options) as two:
            seen += [batch.frame for batch in two]
        seen += [batch.frame for batch in one]
    assert one.stats.acknowledged + two.stats.acknowledged == 500
    assert_frame_equal(without_ids(pl.concat(seen)), frame())


def test_a_worker_runs_its_handler_and_fails_entries(
    any_server: Server, client: redis.Redis, events: str, world: World
) -> None:
    dead = f"{events}:dead"
    redfloe.write_stream(
        any_server.url, pl.DataFrame({"user": ["user_1", "user_2"], "n": ["x", "y"]}), events
    )

    def handle(batch: Any) -> Any:
        odd = batch.frame.with_columns(id=batch.ids, stream="_stream").filter(pl.col("n") == 7)
        return batch.fail(odd.select("_id", "_stream"), "is seven") if len(odd) else None

    worker = world.consumer(
        any_server.url,
        events,
        SCHEMA,
        group="g",
        consumer="c",
        dead_letter=dead,
        include_stream=True,
        on_idle="stop",
        block_ms=1,
    )
    worker.run(handle)
    assert worker.stats.dead_lettered == 3
    # Each is in the shard that shares its slot, and all are read by their name.
    letters = redfloe.read_dead_letters(any_server.url, dead)
    assert sorted(letters["n"]) == ["7", "x", "y"]
    for letter in letters.iter_rows(named=True):
        shard = TAGS[xxhash.xxh64_intdigest(letter["user"].encode()) % 8]
        assert letter["_dead_stream"] == f"{events}:{{{shard}}}"
        assert client.xlen(f"{dead}:{{{shard}}}") > 0


def test_checkpoints_are_those_of_the_shards(any_server: Server, events: str, world: World) -> None:
    store = redfloe.RedisCheckpointStore(any_server.url, key_prefix=f"{events}:checkpoint:")

    def read() -> int:
        options: Any = {"checkpoint_store": store, "on_idle": "stop", "block_ms": 1}
        with world.consumer(any_server.url, events, SCHEMA, **options) as consumer:
            return sum(len(batch) for batch in consumer)

    assert read() == 500
    assert read() == 0
    redfloe.write_stream(any_server.url, frame(3), events)
    assert read() == 3


def test_positions_and_partitions_are_those_of_the_shards(any_server: Server, events: str) -> None:
    url, keys = any_server.url, [f"{events}:{{{tag}}}" for tag in TAGS]
    ends = redfloe.stream_offsets(url, events)
    assert list(ends) == keys == list(asyncio.run(redfloe.stream_offsets_async(url, events)))
    assert redfloe.stream_offsets(url, events, "-") == dict.fromkeys(keys, "0-0")
    halfway = redfloe.advance_offsets(url, {}, 250, up_to=ends)
    for after, up_to, rows in (({}, halfway, 250), (halfway, ends, 250)):
        parts = redfloe.split_stream(url, events, 3, after=after, up_to=up_to)
        assert sum(part.read(SCHEMA).height for part in parts) == rows
    cut = asyncio.run(redfloe.split_stream_async(url, events, 3))
    assert_frame_equal(without_ids(pl.concat(part.read(SCHEMA) for part in cut)), frame())


def test_an_archive_of_a_sharded_stream(any_server: Server, events: str, tmp_path: Any) -> None:
    archive: Any = {"to": tmp_path, "until": "now", "block_ms": 1}
    assert redfloe.archive(any_server.url, events, SCHEMA, **archive).entries == 500
    redfloe.write_stream(any_server.url, frame(3), events)
    again = asyncio.run(redfloe.archive_async(any_server.url, events, SCHEMA, **archive))
    assert again.entries == 3
    stored = pl.read_parquet(tmp_path / "**" / "*.parquet")
    assert without_ids(stored).height == 503


def test_groups_of_all_shards(any_server: Server, client: redis.Redis, events: str) -> None:
    """The shards that nothing was written to are there, too."""
    url = any_server.url
    client.delete(f"{events}:{{{TAGS[3]}}}")
    for created in (True, False):
        assert redfloe.create_group(url, events, "g", start_id="$", make_stream=False) is created
    listed = redfloe.list_groups(url, f"{events}:{{*}}")
    assert sorted(listed["stream"]) == sorted(f"{events}:{{{tag}}}" for tag in TAGS)
    assert not asyncio.run(redfloe.create_group_async(url, events, "g"))
    options: dict[str, Any] = {"group": "g", "consumer": "c", "create_group": False}
    assert redfloe.read_stream(url, events, **options).is_empty()
    assert redfloe.delete_group(url, events, "g")
    assert not redfloe.delete_group(url, events, "g")
    with pytest.raises(redfloe.NoGroupError):
        redfloe.read_stream(url, events, **options)


def test_all_shards_are_trimmed_to_an_id(any_server: Server, events: str) -> None:
    url = any_server.url
    before = redfloe.read_stream(url, events, SCHEMA)
    redfloe.write_stream(url, frame(), events)
    newest = f"{int(max(before['_ts'])) + 1}-0"
    kept = redfloe.read_stream(url, events, SCHEMA, start_id=newest).height
    assert redfloe.trim_stream(url, events, minid=newest, approximate=False) == 1_000 - kept
    assert redfloe.read_stream(url, events, SCHEMA).height == kept
    assert redfloe.trim_stream(url, events, minid=newest, approximate=False) == 0


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_sharded_stream_is_created_and_deleted(
    any_server: Server, client: redis.Redis, stream: str, way: str
) -> None:
    url = any_server.url

    def create(**shards: Any) -> bool:
        if way == "sync":
            return redfloe.create_stream(url, stream, **shards)
        return asyncio.run(redfloe.create_stream_async(url, stream, **shards))

    def delete() -> bool:
        if way == "sync":
            return redfloe.delete_stream(url, stream)
        return asyncio.run(redfloe.delete_stream_async(url, stream))

    eight: dict[str, Any] = {"shards": 8, "shard_by": "user"}
    assert [create(**eight), create(**eight)] == [True, False]
    with pytest.raises(ValueError, match="8 shards"):
        create(shards=4, shard_by="user")
    with pytest.raises(TypeError, match="go together"):
        create(shards=8)
    assert redfloe.read_stream(url, stream, SCHEMA).is_empty()
    redfloe.write_stream(url, frame(), stream)
    assert client.exists(f"{stream}:{{{TAGS[0]}}}")
    assert [delete(), delete()] == [True, False]
    assert client.keys(f"{stream}*") == []
    assert create()  # a plain one now
    with pytest.raises(WrongTypeError):
        create(**eight)
    assert delete()
    client.hset(stream, mapping={"a": "b"})
    with pytest.raises(WrongTypeError):
        delete()
    assert client.exists(stream)


def produce(url: str, name: str) -> None:
    with redfloe.StreamProducer(url, name) as producer:
        producer.send({"user": "a", "n": 1})


def process(url: str, name: str, to: str) -> None:
    processor = redfloe.StreamProcessor(
        url, name, schema=SCHEMA, name="p", on_idle="stop", block_ms=1
    )
    processor.run(lambda tx: tx.publish(to, tx.frame))


TAKE_ONE: dict[str, Any] = {
    "stream_info": redfloe.stream_info,
    "trim_stream": lambda url, name: redfloe.trim_stream(url, name, maxlen=1),
    "create_stream": redfloe.create_stream,
    "pending_entries": lambda url, name: redfloe.pending_entries(url, name, "g"),
    "a list": lambda url, name: redfloe.read_stream(url, [f"{name}:{{0-dnh}}", name], SCHEMA),
    "a schema of a list": lambda url, name: redfloe.infer_schema(url, [name, f"{name}:x"]),
    "StreamProducer": produce,
    "ack_entries": lambda url, name: redfloe.ack_entries(url, name, "g", ["1-0"]),
    "replay_dead_letters": redfloe.replay_dead_letters,
    "reset_processor": lambda url, name: redfloe.reset_processor(
        url, name, "p", to="0", state="keep"
    ),
    "delete_processor": lambda url, name: asyncio.run(
        redfloe.delete_processor_async(url, name, "p")
    ),
    "publish": lambda url, name: process(url, f"{name}:{{0-dnh}}", name),
}


@pytest.mark.parametrize("use", TAKE_ONE)
def test_what_takes_one_key_says_that_the_stream_is_sharded(
    any_server: Server, events: str, use: str
) -> None:
    with pytest.raises(WrongTypeError, match=r"sharded stream.* one of its .*shards.*\{0-dnh\}"):
        TAKE_ONE[use](any_server.url, events)
