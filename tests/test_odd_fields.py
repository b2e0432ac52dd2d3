"""Fields that cannot be columns, or are too many: each entry's own affair, not its batch's."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import DecodeError, SchemaError, infer_schema, read_stream, scan_stream
from support.consumers import SHY, World, dead_ids, letters
from support.groups import DRAIN, ME, pending
from support.loops import Follow
from support.processes import hear, python
from support.server import Server
from support.streams import add, add_raw
from support.versions import FAILURES

#: Names that no column can have, and what the error says.
UNNAMEABLE: dict[bytes, tuple[type[Exception], str]] = {
    b"a\0b": (SchemaError, r"a\\0b.*NUL"),
    b"\xff": (DecodeError, r"\\xff.*UTF-8"),
}
#: Names that the metadata columns have.
TAKEN: dict[bytes, tuple[type[Exception], str]] = {
    b"_id": (SchemaError, "id_column"),
    b"_ts": (SchemaError, "timestamp_column"),
}
ODD = UNNAMEABLE | TAKEN
ids = [str(name) for name in ODD]
odd = pytest.mark.parametrize(
    ("name", "error", "reason"), [(name, *why) for name, why in ODD.items()], ids=ids
)


def add_odd(client: redis.Redis, stream: str, name: bytes) -> None:
    """Add five entries, of which the third has a field of that name."""
    add(client, stream, [("1-0", {"a": "1"}), ("2-0", {"a": "2"})])
    add_raw(client, stream, "3-0", "a", "3", name, "odd", "b", "new")
    add(client, stream, [("4-0", {"a": "4"}), ("5-0", {"a": "5"})])


# Where it raises


@odd
@pytest.mark.parametrize("options", [{}, {**ME, "auto_ack": True}], ids=["range", "group"])
def test_a_read_raises_and_names_the_entry(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    name: bytes,
    error: type[Exception],
    reason: str,
    options: dict[str, Any],
) -> None:
    add_odd(client, stream, name)
    with pytest.raises(error, match=f"{reason}.*entry ID: 3-0.*stream: {stream}"):
        read_stream(any_server.url, stream, **options)
    if options:
        assert pending(client, stream) == [1, 2, 3, 4, 5]
    assert read_stream(any_server.url, stream, {"a": pl.Int64})["a"].to_list() == [1, 2, 3, 4, 5]


@odd
@pytest.mark.parametrize("options", [{}, {**ME, "auto_ack": True}], ids=["tail", "group"])
def test_the_entries_before_it_are_given_first(
    follow: Follow,
    any_server: Server,
    client: redis.Redis,
    stream: str,
    name: bytes,
    error: type[Exception],
    reason: str,
    options: dict[str, Any],
) -> None:
    add_odd(client, stream, name)
    start = None if options else "-"
    frames = follow(any_server.url, stream, start_id=start, **options, **DRAIN)
    assert next(frames)["a"].to_list() == ["1", "2"]
    for _ in range(2):  # it is in the way until something is done about it
        with pytest.raises(error, match=f"{reason}.*entry ID: 3-0"):
            next(frames)
    if options:
        assert pending(client, stream) == [3, 4, 5]
    cure: dict[str, Any] = {"schema": {"a": pl.String}}
    start = None if options else "(2-0"
    frames = follow(any_server.url, stream, start_id=start, **options, **DRAIN, **cure)
    assert [text for frame in frames for text in frame["a"]] == ["3", "4", "5"]


@pytest.mark.parametrize("options", [{}, {**ME, "auto_ack": True}], ids=["tail", "group"])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_entries_before_a_value_that_does_not_fit_are_given_first(
    follow: Follow,
    any_server: Server,
    client: redis.Redis,
    stream: str,
    options: dict[str, Any],
    batch_size: int,
) -> None:
    values = ["1", "2", "3", "four", "5", "six"]
    add(client, stream, ((f"{n}-0", {"n": value}) for n, value in enumerate(values, 1)))
    options = {"start_id": None if options else "-", **options, **DRAIN, "batch_size": batch_size}
    frames = follow(any_server.url, stream, {"n": pl.Int64}, **options)
    seen: list[int] = []
    with pytest.raises(DecodeError, match="entry ID: 4-0"):
        seen.extend(n for frame in frames for n in frame["n"])
    with pytest.raises(DecodeError, match="entry ID: 4-0"):
        next(frames)
    if "group" in options:
        assert set(pending(client, stream)) >= {4}
        assert not set(pending(client, stream)) & {1, 2, 3}


def test_the_batches_of_a_scan_come_before_it(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, ((f"{n}-0", {"n": str(n)}) for n in range(1, 4)))
    add(client, stream, [("4-0", {"n": "x"})])
    reader = redfloe.stream_reader(any_server.url, stream, {"n": pl.Int64}, batch_size=2)
    with pytest.raises(FAILURES, match=r"DecodeError.*entry ID: 4-0"):
        pl.DataFrame(reader)
    scan = scan_stream(any_server.url, stream, {"n": pl.Int64})
    assert scan.head(3).collect()["n"].to_list() == [1, 2, 3]
    with pytest.raises(Exception, match="entry ID: 4-0"):
        scan.collect()


# Where it does not


@pytest.mark.parametrize("name", UNNAMEABLE, ids=str)
def test_a_policy_for_values_holds_for_names_that_no_column_can_have(
    any_server: Server, client: redis.Redis, stream: str, name: bytes
) -> None:
    add_odd(client, stream, name)
    df = read_stream(any_server.url, stream, on_error="null")
    assert df.columns == ["_id", "_ts", "a", "b"]
    assert df["b"].to_list() == [None, None, "new", None, None]
    df = read_stream(any_server.url, stream, rescue_column="rest")
    assert df.columns == ["_id", "_ts", "a", "b", "rest"]
    assert json.loads(df["rest"][2]) == {"a\0b" if b"\0" in name else r"\xff": "odd"}
    assert infer_schema(any_server.url, stream) == {"a": pl.Int64, "b": pl.String}


def test_all_values_of_a_repeated_field_are_rescued(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_raw(client, stream, "1-0", "a", "1", "a", "2", "b", b"\xff", "b", "x", "a", "3")
    for schema in ({"a": pl.Int64}, None):
        df = read_stream(any_server.url, stream, schema, rescue_column="rest")
        assert [int(value) for value in df["a"]] == [3]
        assert json.loads(df["rest"][0]) == {
            "a": ["1", "2", "3"],
            "b": [{"$base64": "/w=="}, "x"],
        }


# A worker


@odd
@pytest.mark.parametrize(
    "options",
    [{}, {"on_error": "null"}, {"rescue_column": "rest"}],
    ids=["dead_letter", "null", "rescue"],
)
def test_a_worker_gets_past_such_an_entry(
    world: World,
    server: Server,
    client: redis.Redis,
    stream: str,
    name: bytes,
    error: type[Exception],
    reason: str,
    options: dict[str, Any],
) -> None:
    add_odd(client, stream, name)
    consumer = world.consumer(
        server.url, stream, None, dead_letter="dead", **ME, **SHY, **DRAIN, **options
    )
    with consumer:
        seen = [text for batch in consumer for text in batch.frame["a"]]
    if options and name in UNNAMEABLE:
        assert seen == ["1", "2", "3", "4", "5"]
        assert letters(client) == []
    else:
        assert seen == ["1", "2", "4", "5"]
        assert dead_ids(client) == ["3-0"]
        letter = letters(client)[0]
        assert (letter[b"a"], letter[name], letter[b"b"]) == (b"3", b"odd", b"new")
        assert (b"UTF-8" in letter[b"_dead_reason"]) == (error is DecodeError)
    assert pending(client, stream) == []


@odd
def test_a_worker_without_a_dead_letter_stream_is_told_which_entry_it_is(
    world: World,
    any_server: Server,
    client: redis.Redis,
    stream: str,
    name: bytes,
    error: type[Exception],
    reason: str,
) -> None:
    add_odd(client, stream, name)
    for seen in (["1", "2"], []):  # it is in the way, and nothing before it is given again
        consumer = world.consumer(any_server.url, stream, None, **ME, **SHY, **DRAIN)
        texts: list[str] = []
        with consumer:
            with pytest.raises(error, match=f"{reason}.*entry ID: 3-0"):
                texts.extend(text for batch in consumer for text in batch.frame["a"])
        assert texts == seen
        assert pending(client, stream) == [3, 4, 5]


def test_the_name_of_the_rescue_column_is_taken(
    world: World, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_odd(client, stream, b"rest")
    with pytest.raises(SchemaError, match=r"rescue_column.*entry ID: 3-0"):
        read_stream(any_server.url, stream, rescue_column="rest")
    consumer = world.consumer(
        any_server.url, stream, None, rescue_column="rest", dead_letter="dead", **ME, **DRAIN
    )
    with consumer:
        seen = [text for batch in consumer for text in batch.frame["a"]]
    assert (seen, dead_ids(client)) == (["1", "2", "4", "5"], ["3-0"])


# Very many fields


def add_names(client: redis.Redis, stream: str, count: int) -> None:
    """Add entries with one field each, of names that never come again."""
    client.eval(
        """for n = 1, tonumber(ARGV[1]) do
            redis.call('XADD', KEYS[1], n .. '-0', 'field' .. n, n)
        end""",
        1,
        stream,
        count,
    )


def test_an_open_schema_has_at_most_max_columns(
    follow: Follow, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_names(client, stream, 20)
    reading: list[tuple[Any, dict[str, Any]]] = [
        (read_stream, {}),
        (infer_schema, {}),
        (read_stream, {"infer_schema": True}),
        # Polars makes its own of it.
        (lambda *args, **options: scan_stream(*args, **options).collect(), {}),
    ]
    for read, options in reading:
        read(any_server.url, stream, max_columns=20, **options)
        match = 'the field "field20".*max_columns=19.*entry ID: 20-0'
        with pytest.raises((SchemaError, pl.exceptions.ComputeError), match=match) as raised:
            read(any_server.url, stream, max_columns=19, **options)
        for way_out in ("schema", "rescue_column", "raise max_columns"):
            assert way_out in str(raised.value)
    frames = follow(any_server.url, stream, start_id="-", max_columns=19, **DRAIN)
    assert next(frames).shape == (19, 21)
    with pytest.raises(SchemaError, match="max_columns"):
        next(frames)
    df = read_stream(any_server.url, stream, max_columns=5, rescue_column="rest")
    assert df.columns == ["_id", "_ts", *(f"field{n}" for n in range(1, 6)), "rest"]
    assert df["rest"].to_list() == [None] * 5 + [f'{{"field{n}":"{n}"}}' for n in range(6, 21)]
    inferred = read_stream(
        any_server.url, stream, max_columns=5, rescue_column="rest", infer_schema=True
    )
    assert inferred.columns == df.columns
    assert inferred["field5"].dtype == pl.Int64


@pytest.mark.parametrize(
    "options", [{}, {"on_error": "null"}, {"max_deliveries": 2}], ids=["dead_letter", "null", "max"]
)
def test_a_worker_gets_past_an_entry_of_too_many_fields(
    world: World, any_server: Server, client: redis.Redis, stream: str, options: dict[str, Any]
) -> None:
    """One that has them alone, and one that has too many together with what came before."""
    add(client, stream, [("1-0", {"a": "1"})])
    add_raw(client, stream, "2-0", *(text for n in range(6) for text in (f"b{n}", "2")))
    add_raw(client, stream, "3-0", "a", "3", "c", "3", "d", "3", "e", "3", "f", "3")
    add_raw(client, stream, "4-0", "g", "4", "a", "4")
    add_raw(client, stream, "5-0", "a", "5", "f", "5", "f", "6")
    consumer = world.consumer(
        any_server.url, stream, None, max_columns=5, dead_letter="dead", **ME, **DRAIN, **options
    )
    with consumer:
        seen = [text for batch in consumer for text in batch.frame["a"]]
    assert seen == ["1", "3", "5"]
    assert dead_ids(client) == ["2-0", "4-0"]
    alone, together = (letter[b"_dead_reason"].decode() for letter in letters(client))
    assert 'field "b4" would be a column beyond max_columns=5' in alone
    assert 'field "g" would be a column beyond max_columns=5' in together
    assert [letters(client)[0][f"b{n}".encode()] for n in range(6)] == [b"2"] * 6
    assert pending(client, stream) == []


def test_a_worker_gets_past_an_entry_that_is_wider_than_a_script_takes(
    world: World, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"a": "1"})])
    add(client, stream, [("2-0", {f"f{n}": "2" for n in range(5_001)})])
    add(client, stream, [("3-0", {"a": "3"})])
    consumer = world.consumer(any_server.url, stream, None, dead_letter="dead", **ME, **DRAIN)
    with consumer:
        seen = [text for batch in consumer for text in batch.frame["a"]]
    assert (seen, dead_ids(client), pending(client, stream)) == (["1", "3"], ["2-0"], [])
    assert b"max_columns=5000" in letters(client)[0][b"_dead_reason"]


@pytest.mark.parametrize("wrong", [-1, 1.5, "x", True])
def test_max_columns_is_a_number(any_server: Server, stream: str, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_columns"):
        read_stream(any_server.url, stream, max_columns=wrong)


def test_batches_are_as_wide_as_they_are_long(
    follow: Follow, any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Where every entry has a field of its own, `batch_bytes` counts what a frame takes."""
    add_names(client, stream, 500)
    frames = list(
        follow(any_server.url, stream, start_id="-", batch_size=500, batch_bytes=100_000, **DRAIN)
    )
    assert sum(frame.height for frame in frames) == 500
    widths = [frame.width - 2 for frame in frames]
    assert widths == sorted(widths)  # every field so far
    assert widths[-1] == 500
    for frame, width in zip(frames, widths, strict=True):
        assert frame.height == 1 or (frame.height - 1) * (width - 1) * 16 < 100_000
        assert frame.select(pl.exclude("_id", "_ts")).null_count().sum_horizontal().item() == (
            frame.height * (width - 1)
        )


READERS = {
    "read": """
        try:
            redfloe.read_stream(url, "names")
        except redfloe.SchemaError as error:
            outcome = "max_columns" in str(error)
    """,
    "rescue": """
        df = redfloe.read_stream(url, "names", rescue_column="rest", max_columns=100)
        outcome = df.shape == (20_000, 103)
    """,
    "infer": """
        try:
            redfloe.infer_schema(url, "names", infer_schema_length=20_000)
        except redfloe.SchemaError as error:
            outcome = "max_columns" in str(error)
    """,
    "iterator": """
        rows = 0
        try:
            for frame in redfloe.iter_stream(url, "names", start_id="-", batch_size=1_000):
                rows += frame.height
        except redfloe.SchemaError as error:
            outcome = rows == 5_000 and "max_columns" in str(error)
    """,
    "worker": """
        rows = 0
        try:
            with redfloe.StreamConsumer(url, "names", "g", "me") as consumer:
                for batch in consumer:
                    rows += len(batch)
        except redfloe.SchemaError as error:
            outcome = rows == 5_000 and "max_columns" in str(error)
    """,
    "scan": """
        outcome = redfloe.scan_stream(url, "names").collect().shape == (20_000, 102)
    """,
}


@pytest.mark.parametrize("reader", READERS)
def test_ever_new_names_do_not_fill_the_memory(redis70: Server, reader: str) -> None:
    """20,000 entries of one new field each are 600 kB, and were a frame of 6.4 GB."""
    with redis70.client() as client:
        if not client.exists("names"):
            add_names(client, "names", 20_000)
    script = """
        import resource

        url = sys.argv[1]
        redfloe.read_stream(url, "names", count=10)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    """
    script += READERS[reader]
    script += """
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([outcome, after - before]))
    """
    with python(script, redis70.url) as process:
        outcome, grown = hear(process)
    assert outcome is True
    # Two batches of 64 MiB, and what Polars makes of thousands of columns.
    assert grown < 300 * 1024, f"{grown / 1024:.1f} MiB"
