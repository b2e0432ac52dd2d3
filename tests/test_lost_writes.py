"""A write that reconnects looks whether the server has lost what it had acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from redfloe import (
    DataLossError,
    OutcomeUnknownError,
    StreamProducer,
    WriteError,
    sink_stream,
    write_stream,
)
from support.server import HOST, Server
from support.streams import reconnecting
from support.writes import stored

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from support.streams import Command

ROWS = 200_000
FRAME = pl.DataFrame({"n": range(1, ROWS + 1)}).with_columns(id=pl.format("{}-0", "n"))


def older(stream: str, *more: int) -> list[Command]:
    """What a server has that starts with older data: ten of the entries, and what came since."""
    added: list[Command] = [("XADD", stream, f"{n}-0", "n", n) for n in (*range(1, 11), *more)]
    return [("DEL", stream), *added]


def lose(client: redis.Redis, stream: str) -> None:
    """Have a server that knows one entry alone."""
    reconnecting(client, ("DEL", stream), ("XADD", stream, "1-0", "n", 1))


def once(act: Callable[[], object]) -> Callable[[int], None]:
    """Give a `progress` that does something when the first rows are in."""
    left = [act]

    def progress(rows: int) -> None:
        if rows > 10 and left:
            left.pop()()

    return progress


def write(url: str, stream: Any, act: Callable[[], object], frame: pl.DataFrame = FRAME) -> Any:
    return write_stream(
        url, frame, stream, fields=["n"], id_column="id", batch_size=500, progress=once(act)
    )


def test_rows_that_the_server_has_lost_are_not_in(
    server: Server, client: redis.Redis, stream: str
) -> None:
    with pytest.raises(
        WriteError, match=r"10 of 200000 rows are in: .*lost the end.*10-0"
    ) as raised:
        write(server.url, stream, lambda: reconnecting(client, *older(stream)))
    error = raised.value
    assert (error.rows_written, error.row) == (10, 10)
    assert error.ids is not None
    assert error.ids.drop_nulls().to_list() == [f"{n}-0" for n in stored(client, stream)]
    # As after any WriteError, the rest can be written.
    rest = FRAME.filter(error.ids.is_null()).head(100)
    write_stream(server.url, rest, stream, fields=["n"], id_column="id")
    assert stored(client, stream) == [*range(1, 111)]


def test_a_server_that_has_gone_on_without_them(
    redis70: Server, client: redis.Redis, stream: str
) -> None:
    with pytest.raises(WriteError, match=r"10 of .*lost the end.*10-0") as raised:
        write(redis70.url, stream, lambda: reconnecting(client, *older(stream, ROWS + 1)))
    assert raised.value.rows_written == 10


def test_a_stream_that_is_gone(any_server: Server, client: redis.Redis, stream: str) -> None:
    with pytest.raises(WriteError, match="no such stream any more") as raised:
        write(any_server.url, stream, lambda: reconnecting(client, ("DEL", stream)))
    assert (raised.value.rows_written, raised.value.row) == (0, 0)


@pytest.mark.parametrize("trim", [0, 3])
def test_rows_that_somebody_trims_are_not_lost(
    server: Server, client: redis.Redis, stream: str, trim: int
) -> None:
    trimming: Command = ("XTRIM", stream, "MAXLEN", "=", trim)
    ids = write(server.url, stream, lambda: reconnecting(client, trimming), FRAME.head(100_000))
    assert ids.null_count() == 0


def test_of_several_streams_one_has_lost_rows(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    names = [f"{stream}-{n}" for n in range(3)]
    frame = FRAME.with_columns(stream=pl.lit(pl.Series(names)).gather(pl.col("n") % 3))
    with pytest.raises(WriteError, match=f"lost the end of the stream .{names[1]}") as raised:
        write(any_server.url, pl.col("stream"), lambda: lose(client, names[1]), frame)
    ids = raised.value.ids
    assert ids is not None
    said = frame.with_columns(said=ids).filter(pl.col("said").is_not_null())
    for name in names:
        there = said.filter(pl.col("stream") == name)["n"].to_list()
        assert there == stored(client, name)
    assert raised.value.row == 3  # of the row whose n is 4
    assert raised.value.rows_written == said.height


def test_a_producer_says_that_the_server_has_lost_its_entries(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    producer = StreamProducer(any_server.url, stream)
    producer.send({"n": 1})
    producer.flush()
    lose(client, stream)
    producer.send({"n": 2})
    with pytest.raises(DataLossError, match=r"lost the end.*1-0.*writes before"):
        producer.close()
    assert stored(client, stream) == [1]


def test_a_producer_goes_on_where_its_stream_was_only_created_again(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with StreamProducer(any_server.url, stream) as producer:
        producer.send({"n": 1})
        producer.flush()
        client.delete(stream)
        reconnecting(client, ("XGROUP", "CREATE", stream, "g", "$", "MKSTREAM"))
        producer.send({"n": 2})
    assert stored(client, stream) == [2]


@pytest.mark.parametrize("removal", ["DEL", "XTRIM"])
def test_a_producer_goes_on_where_somebody_has_removed_its_entries(
    any_server: Server, client: redis.Redis, stream: str, removal: str
) -> None:
    removing: Command = ("DEL", stream) if removal == "DEL" else ("XTRIM", stream, "MAXLEN", 0)
    with StreamProducer(any_server.url, stream) as producer:
        producer.send({"n": 1})
        producer.flush()
        reconnecting(client, removing)
        producer.send({"n": 2})
    assert stored(client, stream) == [2]


def test_a_producer_that_may_not_ask_goes_on(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.acl_setuser(
        "adds", enabled=True, passwords=["+secret"], keys=["*"], commands=["-@all", "+xadd"]
    )
    try:
        with StreamProducer(f"redis://adds:secret@{HOST}:{any_server.port}", stream) as producer:
            producer.send({"n": 1})
            producer.flush()
            lose(client, stream)
            producer.send({"n": 2})
        assert stored(client, stream) == [1, 2]
    finally:
        client.acl_deluser("adds")


def test_a_sink_says_that_the_server_has_lost_chunks(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """By its cause too, which is about all rows that were acknowledged."""
    act = once(lambda: lose(client, stream))
    with pytest.raises(DataLossError, match="lost the end") as raised:
        sink_stream(
            any_server.url, FRAME.lazy().select("n"), stream, chunk_size=1_000, progress=act
        )
    cause = raised.value.__cause__
    assert isinstance(cause, OutcomeUnknownError)
    assert (cause.rows_written, cause.row, cause.unknown.start) == (0, 0, 0)
    assert 0 < cause.unknown.stop <= ROWS
    assert stored(client, stream) == [1]
