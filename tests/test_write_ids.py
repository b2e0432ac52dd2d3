"""The IDs of rows that are written: the server's, a column's or a timestamp's."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import WriteError, read_stream, write_stream
from support.server import Server
from support.writes import entries, ids, read_back


@pytest.mark.parametrize("batch_size", [1, 2, 10_000])
def test_ids_of_a_column(server: Server, client: redis.Redis, stream: str, batch_size: int) -> None:
    wanted = ["5-1", "6", "6-1", "18446744073709551615-18446744073709551615"]
    frame = pl.DataFrame({"id": wanted, "x": [1, 2, 3, 4]})
    written = write_stream(server.url, frame, stream, id_column="id", batch_size=batch_size)
    assert written.to_list() == ["5-1", "6-0", "6-1", wanted[-1]] == ids(client, stream)
    assert entries(client, stream)[0] == {b"x": b"1"}


def test_the_server_adds_sequence_numbers(server: Server, client: redis.Redis, stream: str) -> None:
    """Before Redis 7.0 redfloe does."""
    client.xadd(stream, {"x": "0"}, id="5-3")
    frame = pl.DataFrame({"id": ["5-*", "5-*", "6-*", "6-7", "6-*"], "x": range(5)})
    written = write_stream(server.url, frame, stream, id_column="id")
    assert written.to_list() == ["5-4", "5-5", "6-0", "6-7", "6-8"]
    assert ids(client, stream)[1:] == written.to_list()


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_ids_of_datetimes(server: Server, stream: str, unit: Any) -> None:
    at = pl.Series([1_000, 1_000, 2_999]).cast(pl.Datetime("ms", "UTC")).cast(pl.Datetime(unit))
    frame = pl.DataFrame({"at": at, "x": [1, 2, 3]})
    written = write_stream(server.url, frame, stream, timestamp_column="at")
    assert written.to_list() == ["1000-0", "1000-1", "2999-0"]
    assert_frame_equal(read_back(server.url, stream, frame.drop("at")), frame.drop("at"))


def test_a_frame_that_was_read_is_written_back(server: Server, stream: str) -> None:
    frame = pl.DataFrame({"id": ["1-1", "2-0"], "x": [1, 2]})
    write_stream(server.url, frame, stream, id_column="id")
    read = read_stream(server.url, stream, {"x": pl.Int64}, include_sequence=True)
    copy = f"{stream}-copy"
    assert write_stream(server.url, read, copy, id_column="_id").to_list() == ["1-1", "2-0"]
    again = read_stream(server.url, copy, {"x": pl.Int64}, include_sequence=True)
    assert_frame_equal(again, read)
    # Other IDs: what belongs to the entries that were read is no field.
    other = f"{stream}-other"
    write_stream(server.url, read, other, timestamp_column="_ts", fields=["x", "_seq"])
    assert read_stream(server.url, other)["_seq"].to_list() == ["1", "0"]


BAD_IDS = {
    "null": (["1-0", None], "the ID is null"),
    "not larger": (["1-1", "1-1"], "the ID 1-1 does not come after 1-1"),
    "smaller": (["1-1", "1-0"], "the ID 1-0 does not come after 1-1"),
    "text": (["1-1", "x"], '"x" is no entry ID'),
    "server's": (["1-1", "*"], '"\\*" is no entry ID'),
    "negative": (["1-1", "-1-*"], "is no entry ID"),
    "zero": (["0-0", "1-0"], "no entry can have the ID 0-0"),
    "partial": (["2-*", "1-*"], "the ID 1-\\* does not come after 2-\\*"),
}


@pytest.mark.parametrize(("wanted", "message"), BAD_IDS.values(), ids=BAD_IDS)
def test_ids_that_cannot_be(
    any_server: Server, client: redis.Redis, stream: str, wanted: list[str | None], message: str
) -> None:
    frame = pl.DataFrame({"id": wanted, "x": [1, 2]})
    with pytest.raises(ValueError, match=message + r".*nothing has been sent \(row: [01]"):
        write_stream(any_server.url, frame, stream, id_column="id")
    assert not client.exists(stream)


def test_timestamps_that_cannot_be(any_server: Server, client: redis.Redis, stream: str) -> None:
    for values, message in (([1, None], "is null"), ([-1, 1], "1970"), ([2, 1], "1-\\*.*2-\\*")):
        at = pl.Series(values).cast(pl.Datetime("ms"))
        with pytest.raises(ValueError, match=message):
            write_stream(
                any_server.url, pl.DataFrame({"at": at, "x": [1, 2]}), stream, timestamp_column="at"
            )
    assert not client.exists(stream)


def test_ids_that_the_stream_is_past(server: Server, client: redis.Redis, stream: str) -> None:
    client.xadd(stream, {"x": "0"}, id="5-0")
    frame = pl.DataFrame({"id": ["5-0", "6-0"], "x": [1, 2]})
    with pytest.raises(WriteError, match="5-0 does not come after 5-0") as raised:
        write_stream(server.url, frame, stream, id_column="id")
    assert (raised.value.rows_written, raised.value.row) == (0, 0)
    assert client.xlen(stream) == 1


def test_ids_increase_in_each_stream(any_server: Server, client: redis.Redis) -> None:
    frame = pl.DataFrame({"k": ["a", "b", "a"], "id": ["5-0", "1-0", "6-0"], "n": [1, 2, 3]})
    written = write_stream(any_server.url, frame, pl.col("k"), id_column="id", fields=["n"])
    assert written.to_list() == ["5-0", "1-0", "6-0"]
