"""What a processor commits: all of a batch, once, when it is due."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import DataLossError, FencedError, StreamProcessor, WrongTypeError
from support.consumers import World, dead_ids, letters
from support.payloads import BARE, PACKED
from support.processors import (
    DRAIN,
    LANE,
    NAME,
    STREAM,
    TOTALS,
    Driven,
    check,
    handler,
    outputs,
    processor,
    saved,
    work,
)
from support.server import Server
from support.streams import NUMBER, add_numbers, add_values
from support.timing import within

OUT = "{numbers}:out"
SYNC = World(None)


def drive(world: World, url: Any, **options: Any) -> Driven:
    return Driven(world, processor(url, **options))


@pytest.mark.parametrize("batch_size", [1, 3, 1_000])
def test_a_stream_is_processed_once(
    server: Server, client: redis.Redis, world: World, batch_size: int
) -> None:
    add_numbers(client, STREAM, 10)
    driven = drive(world, server.url, batch_size=batch_size)
    sizes = []
    with driven:
        for tx in driven:
            assert len(tx) == tx.frame.height == tx.ids.len()
            sizes.append(len(tx))
            work(world, tx)
    assert sum(sizes) == 10
    assert max(sizes) == min(batch_size, 10)
    check(client, 10)
    assert (driven.processor.stats.entries, driven.processor.stats.commits) == (10, len(sizes))
    # Another run finds nothing, and then what has come.
    with driven:
        assert [*driven] == []
    add_numbers(client, STREAM, 15, first=11)
    driven.run(handler(world))
    check(client, 15)


def test_the_issues_example(any_server: Server, client: redis.Redis) -> None:
    client.xadd("sales", {"sku": "A-1", "quantity": 3})
    client.xadd("sales", {"sku": "B-2", "quantity": 95})
    made = StreamProcessor(
        any_server.url,
        "sales",
        name="inventory",
        schema={"sku": pl.String, "quantity": pl.Int64},
        batch_size=10_000,
        **DRAIN,
    )
    with made as p:
        for tx in p:
            stock = tx.table("stock", key="sku", schema={"left": pl.Int64})
            sold = tx.frame.group_by("sku").agg(pl.col("quantity").sum())
            left = 100 - pl.col("quantity")
            now = stock.lookup(sold["sku"]).join(sold, on="sku").select("sku", left=left)
            stock.upsert(now)
            tx.state["seen"] = tx.state.get("seen", 0) + tx.frame.height
            tx.publish("restock-alerts", now.filter(pl.col("left") <= 10))
    assert client.hget("{sales}:redfloe:sales:inventory:table:stock", "A-1") == b'{"left":97}'
    assert client.hget("{sales}:redfloe:sales:inventory:state", "seen") == b'{"format":1,"value":2}'
    alerts: Any = client.xrange("restock-alerts")
    assert [fields for _, fields in alerts] == [{b"sku": b"B-2", b"left": b"5"}]


def test_nothing_is_in_before_the_next_is_asked_for(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 6)
    driven = drive(world, any_server.url, batch_size=2)
    with driven:
        work(world, next(driven))
        assert outputs(client) == []
        second = next(driven)
        check(client, 2)
        work(world, second)
        world.do(second.commit())
        check(client, 4)
        work(world, next(driven))
    # A clean end commits what is in hand.
    check(client, 6)


def test_an_exception_leaves_nothing_of_the_batch(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 4)
    driven = drive(world, any_server.url, batch_size=2)
    with pytest.raises(ZeroDivisionError), driven:  # noqa: PT012
        work(world, next(driven))
        work(world, next(driven))
        raise ZeroDivisionError
    check(client, 2)
    assert client.hget(LANE, "owner") == b""
    with within(2), driven:
        for tx in driven:
            assert tx.state["seen"] == 2
            work(world, tx)
    check(client, 4)


def test_a_transaction_that_has_ended_refuses_everything(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 4)
    driven = drive(world, any_server.url, batch_size=2)
    with driven:
        tx = next(driven)
        table, state = world.do(tx.table("totals", **TOTALS)), tx.state
        world.do(tx.commit())
        for use in (
            lambda: tx.state,
            lambda: tx.publish(OUT, tx.frame),
            lambda: world.do(tx.commit()),
            lambda: world.do(tx.table("totals", **TOTALS)),
            lambda: tx.fail(tx.ids, "x"),
            table.frame,
            lambda: state.get("seen"),
            lambda: state.update(seen=1),
        ):
            with pytest.raises(RuntimeError, match="has ended"):
                use()
        assert tx.frame["n"].to_list() == [1, 2]
        second = next(driven)
        with pytest.raises(RuntimeError, match="has ended"):
            tx.publish(OUT, tx.frame)
        assert table.frame().height == 0
        assert second.state is state
    with pytest.raises(RuntimeError, match="has ended"):
        second.publish(OUT, tx.frame)
    assert outputs(client) == []


def test_a_loop_needs_its_with(any_server: Server) -> None:
    made = processor(any_server.url)
    with pytest.raises(RuntimeError, match="with processor:"):
        next(made)
    with made:
        with pytest.raises(RuntimeError, match="entered already"):
            made.__enter__()
        with pytest.raises(RuntimeError, match="with and for"):
            made.__anext__().send(None)


def test_everything_is_checked_before_the_first_write(server: Server, client: redis.Redis) -> None:
    """The peer's MULTI writes on after a WRONGTYPE."""
    add_numbers(client, STREAM, 2)
    client.set("other", "text")
    made = processor(server.url)
    with made:
        tx = next(made)
        work(SYNC, tx)
        tx.publish("other", {"n": 1})
        with pytest.raises(WrongTypeError, match="other") as raised:
            tx.commit()
        assert "nothing has been written" in str(raised.value)
        assert (outputs(client), saved(client)) == ([], {})
        # The lane is held as before, and the batch comes again.
        work(SYNC, next(made))
    check(client, 2)


def test_outputs_are_not_trimmed_unless_that_is_asked_for(
    any_server: Server, client: redis.Redis
) -> None:
    """The peer shortened its target to 10,000 entries without a word."""
    pipeline = client.pipeline()
    for number in range(10_500):
        pipeline.xadd(STREAM, {"n": number})
    pipeline.execute()

    def handle(tx: Any) -> None:
        tx.publish(OUT, tx.frame)
        tx.publish("few", tx.frame, maxlen=7, approximate=False)

    processor(any_server.url, batch_size=4_000).run(handle)
    assert client.xlen(OUT) == 10_500
    assert outputs(client, "few") == [*range(10_493, 10_500)]


def test_what_is_published_is_written_as_write_stream_writes_it(
    any_server: Server, client: redis.Redis
) -> None:
    client.xadd(STREAM, {"n": 1})
    frame = pl.DataFrame(
        {
            "text": ["é", None],
            "at": pl.Series([0, 1], dtype=pl.Datetime("us", "UTC")),
            "list": [[1, 2], None],
            "truth": [True, False],
        }
    )
    redfloe.write_stream(any_server.url, frame, "written")

    def handle(tx: Any) -> None:
        tx.publish("published", frame)
        tx.publish(pl.lit("by:") + pl.col("truth").cast(pl.String), frame)
        tx.publish("payload", frame, payload="data", fields=["text", "list"])
        tx.publish("packed", frame, **PACKED)
        tx.publish("one", {"n": 1, "none": None, "truth": True})
        tx.publish("several", [{"n": 1}, {"n": 2.5}])
        tx.publish("none", frame.clear())

    processor(any_server.url).run(handle)
    written: Any = client.xrange("written")
    published: Any = client.xrange("published")
    assert [fields for _, fields in published] == [fields for _, fields in written]
    assert (client.xlen("by:true"), client.xlen("by:false")) == (1, 1)
    assert redfloe.read_stream(any_server.url, "payload", payload="data").height == 2
    packed = redfloe.read_stream(any_server.url, "packed", frame.schema, **PACKED, **BARE)
    assert_frame_equal(packed, frame)
    one: Any = client.xrange("one")
    assert one[0][1] == {b"n": b"1", b"truth": b"true"}
    several: Any = client.xrange("several")
    assert [fields[b"n"] for _, fields in several] == [b"1", b"2.5"]
    assert client.exists("none") == 0


def test_what_cannot_be_published_is_refused_at_once(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, STREAM, 1)
    made = processor(any_server.url, max_commit_bytes=1_000)
    with made:
        tx = next(made)
        tx.publish(OUT, tx.frame)
        refused: list[tuple[Any, type[Exception], str]] = [
            (7, TypeError, "rows must be"),
            ("text", TypeError, "rows must be"),
            (pl.LazyFrame({"a": [1]}), TypeError, "LazyFrame"),
            (
                pl.DataFrame({"a": [None]}, schema={"a": pl.Int64}),
                ValueError,
                "no field has a value",
            ),
            (pl.DataFrame({"a": [object()]}), redfloe.SchemaError, "dtype"),
            ([{"a": "1"}, {"a": object()}], TypeError, "'a'"),
            ([{"a": "1"}, {}], ValueError, "no field has a value"),
            ({"a": "x" * 1_000}, ValueError, "at most 1000 bytes"),
        ]
        for rows, error, message in refused:
            with pytest.raises(error, match=message):
                tx.publish("other", rows)
        with pytest.raises(ValueError, match="one stream"):
            tx.publish(pl.lit("s"), tx.frame, maxlen=1)
    assert outputs(client) == [1]
    assert client.exists("other") == 0


def test_the_next_one_waits_for_the_lane(any_server: Server, client: redis.Redis) -> None:
    """Two instances of one ID made 381 outputs of 200 entries, says the issue of the peer."""
    add_numbers(client, STREAM, 4)
    first = processor(any_server.url, batch_size=1)
    second = processor(any_server.url, lease_ms=200)
    with first:
        work(SYNC, next(first))
        with second:
            second.stop()
            assert [*second] == []  # it stood by
        for tx in first:
            work(SYNC, tx)
    check(client, 4)
    second.run(lambda tx: work(SYNC, tx))
    check(client, 4)


def test_a_takeover_fences_the_other(any_server: Server, client: redis.Redis, world: World) -> None:
    add_numbers(client, STREAM, 4)
    one = drive(world, any_server.url, batch_size=2)
    other = drive(world, any_server.url, batch_size=2, takeover=True)
    with pytest.raises(FencedError, match="has acquired the lane"), one:  # noqa: PT012
        tx = next(one)
        work(world, tx)
        with other:
            for taken in other:
                work(world, taken)
        check(client, 4)
        with pytest.raises(FencedError):
            world.do(tx.commit())
        next(one)
    check(client, 4)


def test_a_stream_that_was_trimmed_past_the_position(
    any_server: Server, client: redis.Redis
) -> None:
    """The peer did not notice."""
    add_numbers(client, STREAM, 10)
    made = processor(any_server.url, batch_size=2)
    with made:
        work(SYNC, next(made))
    client.xtrim(STREAM, minid="7-0", approximate=False)
    with pytest.raises(DataLossError, match="trimmed"), made:
        next(made)
    with processor(any_server.url, on_data_loss="continue") as goes_on:
        numbers = [number for tx in goes_on for number in tx.frame["n"]]
    assert numbers == [7, 8, 9, 10]


def test_a_stream_that_was_begun_anew(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 14, first=5)
    with processor(any_server.url) as made:
        for tx in made:
            tx.state["last"] = tx.frame["n"][-1]
    client.delete(STREAM)
    add_numbers(client, STREAM, 2)
    with pytest.raises(DataLossError), made:
        next(made)
    with processor(any_server.url, on_data_loss="continue", batch_size=1) as goes_on:
        numbers: list[int] = []
        for tx in goes_on:
            assert tx.state["last"] == (14 if not numbers else numbers[-1])
            numbers += tx.frame["n"].to_list()
            tx.state["last"] = numbers[-1]
    assert numbers == [1, 2]


def test_a_lane_that_is_gone_while_its_state_is_there(
    any_server: Server, client: redis.Redis
) -> None:
    """As an eviction leaves it: to begin anew with that state would count entries twice."""
    add_numbers(client, STREAM, 3)
    processor(any_server.url).run(lambda tx: work(SYNC, tx))
    client.delete(LANE)
    with pytest.raises(DataLossError, match="count twice"), processor(any_server.url) as made:
        next(made)
    client.delete(f"{LANE}:state")
    with pytest.raises(DataLossError, match="table"), processor(any_server.url) as made:
        next(made).table("totals", **TOTALS)
    assert outputs(client) == [1, 2, 3]


@pytest.mark.parametrize(
    ("start", "numbers"), [("-", [0, 1, 2]), ("2-0", [1, 2]), ("(2-0", [2]), ("$", [])]
)
def test_where_a_new_processor_begins(
    any_server: Server, client: redis.Redis, start: str, numbers: list[int]
) -> None:
    add_values(client, STREAM, ["0", "1", "2"], field="n")
    with processor(any_server.url, start_id=start) as made:
        assert [n for tx in made for n in tx.frame["n"]] == numbers
    # Afterwards the lane says where it goes on, also for "$".
    client.xadd(STREAM, {"n": 3})
    with processor(any_server.url, start_id="-") as made:
        assert [n for tx in made for n in tx.frame["n"]] == [3]


@pytest.mark.parametrize("start", ["2-0", "2000-01-01", "(1-5"])
def test_a_start_before_the_first_entry_is_no_loss(
    any_server: Server, client: redis.Redis, start: str
) -> None:
    numbers = range(1_000_000_000_000, 1_000_000_000_003)
    for number in numbers:
        client.xadd(STREAM, {"n": number}, id=f"{number}-0")
    made = processor(any_server.url, start_id=start, batch_size=2)
    with made:
        assert [n for tx in made for n in tx.frame["n"]] == [*numbers]


def test_a_start_in_the_future_is_waited_for(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 3)
    for _ in range(2):
        with processor(any_server.url, start_id="7-0") as made:
            assert [*made] == []
    add_numbers(client, STREAM, 8, first=6)
    with processor(any_server.url) as made:
        assert [n for tx in made for n in tx.frame["n"]] == [7, 8]


def test_a_processor_that_was_reset_goes_on_there(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 10, first=5)
    drive(world, any_server.url).run(handler(world))
    for to, numbers in (("7-0", [8, 9, 10]), ("2-0", [*range(5, 11)]), ("99-0", [])):
        redfloe.reset_processor(any_server.url, STREAM, NAME, to=to, state="keep")
        driven = drive(world, any_server.url)
        with driven:
            assert [n for tx in driven for n in tx.frame["n"]] == numbers
    # What it kept stays, also where only the lane was lost.
    client.delete(LANE)
    redfloe.reset_processor(any_server.url, STREAM, NAME, to="9-0", state="keep")
    driven = drive(world, any_server.url)
    with driven:
        assert next(driven).state["seen"] == 6


def test_entries_that_do_not_fit_go_to_the_dead_letters(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_values(client, STREAM, ["x", "1", "y", "z", "2", "3", "u"], field="n")
    driven = drive(world, any_server.url, batch_size=2, dead_letter="dead")
    with driven:
        for tx in driven:
            work(world, tx)
    check(client, 3)
    assert dead_ids(client) == ["1-0", "3-0", "4-0", "7-0"]
    first = letters(client)[0]
    assert first[b"n"] == b"x"
    assert (first[b"_dead_stream"], first[b"_dead_consumer"]) == (STREAM.encode(), NAME.encode())
    dead = redfloe.read_dead_letters(any_server.url, "dead", {"n": pl.String})
    assert dead["n"].to_list() == ["x", "y", "z", "u"]
    assert dead["_dead_time"].null_count() == 0
    assert driven.processor.stats.dead_lettered == 4
    # They go back as any others do.
    client.xtrim(STREAM, maxlen=0)
    redfloe.replay_dead_letters(any_server.url, "dead")
    assert client.xlen(STREAM) == 4


def test_a_stream_of_misfits_alone(any_server: Server, client: redis.Redis) -> None:
    add_values(client, STREAM, ["x", "y"], field="n")
    with processor(any_server.url, dead_letter="dead") as made:
        assert [*made] == []
    assert dead_ids(client) == ["1-0", "2-0"]
    assert client.hget(LANE, "position") == b"2-0"


def test_entries_that_a_transaction_fails(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 3)
    with processor(any_server.url, dead_letter="dead") as made:
        tx = next(made)
        with pytest.raises(ValueError, match="no entry of this batch"):
            tx.fail("77-0", "why")
        tx.fail(tx.ids[1], "odd")
        tx.publish(OUT, tx.frame.filter(pl.col("n") != 2))
        assert letters(client) == []
    assert outputs(client) == [1, 3]
    [letter] = letters(client)
    assert (letter[b"n"], letter[b"_dead_reason"]) == (b"2", b"odd")
    with (
        processor(any_server.url, name="other") as made,
        pytest.raises(ValueError, match="dead_letter="),
    ):
        next(made).fail([], "x")


def test_arguments_that_cannot_be_right(any_server: Server) -> None:
    url = any_server.url
    for options, error, message in (
        ({"name": ""}, ValueError, "name"),
        ({"name": 7}, TypeError, "name"),
        ({"lease_ms": 1}, ValueError, "lease_ms"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"on_data_loss": "x"}, ValueError, "on_data_loss"),
        ({"on_error": "dead_letter"}, ValueError, "dead_letter"),
        ({"dead_letter": STREAM}, ValueError, "stream itself"),
        ({"wait_replicas": -1}, ValueError, "wait_replicas"),
        ({"outputs": [7]}, TypeError, "outputs"),
        ({"max_commit_bytes": 0}, ValueError, "max_commit_bytes"),
        ({"max_deliveries": 2}, ValueError, "dead_letter"),
        ({"max_deliveries": 0, "dead_letter": "dead"}, ValueError, "max_deliveries"),
        ({"schema": {"_id": pl.String}}, redfloe.SchemaError, "_id"),
        ({"lease": 7}, TypeError, "lease"),
    ):
        with pytest.raises(error, match=message):
            processor(url, **options)


def test_tables_have_the_dtypes_of_the_input_for_their_keys(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, STREAM, 3)
    with processor(any_server.url) as made:
        tx = next(made)
        table = tx.table("t", key="n", schema={"x": pl.Float64})
        assert table.schema == pl.Schema({"n": pl.Int64(), "x": pl.Float64()})
        assert tx.table("t", key=["n"], schema={"x": pl.Float64()}) is table
        with pytest.raises(ValueError, match="other columns"):
            tx.table("t", key="n", schema={"y": pl.Float64})
        with pytest.raises(redfloe.SchemaError):
            tx.table("u", key="n", schema={})


def test_rows_of_tables_expire_by_event_time(any_server: Server, client: redis.Redis) -> None:
    add_values(client, STREAM, ["1000", "5000", "4500"], field="n")
    options: dict[str, Any] = {
        "key": "n",
        "schema": {"at": pl.Int64},
        "event_time": "at",
        "expire_after": 1_000,
    }
    with processor(any_server.url, batch_size=2) as made:
        for tx in made:
            tx.table("t", **options).upsert(tx.frame.select("n", at="n"))
    assert client.hkeys(f"{LANE}:table:t") == [b"5000", b"4500"]
    # The newest time is known after a restart too, whatever rows are there.
    client.hdel(f"{LANE}:table:t", "5000")
    client.xadd(STREAM, {"n": 3_000})
    with processor(any_server.url) as made:
        for tx in made:
            tx.table("t", **options).upsert(tx.frame.select("n", at="n"))
    assert client.hkeys(f"{LANE}:table:t") == [b"4500"]


def test_fields_are_typed_by_inference(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 3)
    with processor(any_server.url, schema=None, infer_schema=True, batch_size=2) as made:
        assert [tx.frame.schema["n"] for tx in made] == [pl.Int64(), pl.Int64()]
    with processor(any_server.url, name="text", schema=None) as made:
        assert next(made).frame.schema["n"] == pl.String()


def test_the_options_of_columns(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 3)
    made = processor(any_server.url, include_id=False, include_timestamp=False, schema=NUMBER)
    with made:
        assert next(made).frame.columns == ["n"]


def test_frames_of_small_batches_are_nobody_elses(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """They are parts of one, of all that was read at once."""
    add_numbers(client, STREAM, 7)
    driven = drive(world, any_server.url, batch_size=3)
    frames, ids = [], []
    with driven:
        for tx in driven:
            frames.append(tx.frame.clone())
            ids += tx.ids.to_list()
            tx.frame[0, "n"] = 100
            tx.frame.extend(tx.frame)
            tx.frame.drop_in_place("_id")
    assert [frame.height for frame in frames] == [3, 3, 1]
    read = redfloe.read_stream(any_server.url, STREAM, schema=NUMBER)
    assert pl.concat(frames).equals(read)
    assert ids == read["_id"].to_list()
