"""A reader that reconnects asks whether the server has lost what was read: when that is said."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import redis

from redfloe import DataLossError, iter_stream, stream_reader
from support.groups import deliver
from support.proxy import Proxy
from support.server import HOST, Server
from support.streams import NUMBER, Command, add_numbers, reconnecting

#: What removes the last of ten entries, of which only the first is pending in a group.
OF_EACH: dict[str, list[Command]] = {
    "XDEL": [("XDEL", "s", "10-0")],
    "XTRIM": [("XTRIM", "s", "MAXLEN", "=", 0)],
    "XTRIM later": [("XADD", "s", "11-0", "n", 11), ("XTRIM", "s", "MINID", "=", 11)],
}
OF_8_2: dict[str, list[Command]] = {
    "XTRIM ACKED": [("XTRIM", "s", "MAXLEN", "=", 1, "ACKED")],
    "XTRIM DELREF": [("XTRIM", "s", "MAXLEN", "=", 0, "DELREF")],
    "XADD ACKED": [("XADD", "s", "MAXLEN", "=", 2, "ACKED", "11-0", "n", 11)],
    "XDELEX": [("XDELEX", "s", "ACKED", "IDS", 1, "10-0")],
    "XACKDEL": [("XACKDEL", "s", "g", "KEEPREF", "IDS", 1, "10-0")],
}


def ten(client: redis.Redis) -> None:
    """Ten entries, acknowledged but for the first."""
    add_numbers(client, "s", 10)
    deliver(client, "s")
    client.xack("s", "g", *(f"{n}-0" for n in range(2, 11)))


def follow(url: str) -> Any:
    """Follow the stream, of which ten entries are read."""
    batches = iter_stream(url, "s", NUMBER, "-", block_ms=300)
    assert next(batches)["n"].to_list() == [*range(1, 11)]
    return batches


@pytest.mark.parametrize("removal", OF_EACH)
def test_what_was_removed_is_no_loss(server: Server, client: redis.Redis, removal: str) -> None:
    ten(client)
    batches = follow(server.url)
    reconnecting(client, *OF_EACH[removal], ("XADD", "s", "12-0", "n", 12))
    assert next(batches)["n"].to_list()[-1] == 12


@pytest.mark.parametrize("removal", OF_8_2)
def test_what_was_removed_with_its_references_is_no_loss(
    redis810: Server, client: redis.Redis, removal: str
) -> None:
    """ACKED leaves what is pending, however old it is."""
    ten(client)
    batches = follow(redis810.url)
    reconnecting(client, *OF_8_2[removal], ("XADD", "s", "12-0", "n", 12))
    assert next(batches)["n"].to_list()[-1] == 12


@pytest.mark.parametrize("trim", [("MAXLEN", "=", 0), ("MAXLEN", "=", 1, "ACKED")])
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_what_was_removed_is_no_loss_to_an_arrow_stream(
    redis810: Server, client: redis.Redis, trim: tuple[Any, ...], several: bool
) -> None:
    add_numbers(client, "s", 50_000)
    deliver(client, "s", 1)
    client.xgroup_setid("s", "g", "$")
    add_numbers(client, "t", 1)
    with Proxy(redis810.port) as proxy:
        streams: Any = ["s", "t"] if several else "s"
        reader = stream_reader(proxy.url, streams, NUMBER, batch_size=1_000)
        batches = pa.RecordBatchReader.from_stream(reader)
        found = [batches.read_next_batch()]
        client.execute_command("XTRIM", "s", *trim)
        proxy.cut_all()
        connections = proxy.connections
        found += [*batches]
        assert proxy.connections > connections
    got: Any = pl.concat(pl.DataFrame(batch) for batch in found)
    last = got["n"].to_list()[-2 if several else -1]
    assert got["n"].to_list() == [*range(1, last + 1), *([1] if several else [])]
    assert last < 50_000


@pytest.mark.parametrize("grouped", [False, True], ids=["no group", "a group"])
def test_what_nobody_can_have_removed_is_a_loss(
    redis810: Server, client: redis.Redis, grouped: bool
) -> None:
    """Where there are groups, somebody may have trimmed what they have acknowledged (ACKED)."""
    add_numbers(client, "s", 10)
    batches = follow(redis810.url)
    # What a server has that starts with older data, and goes on.
    older: list[Command] = [("DEL", "s")]
    older += [("XADD", "s", f"{n}-0", "n", n) for n in (1, 2, 12)]
    if grouped:
        older.append(("XGROUP", "CREATE", "s", "g", "0"))
    reconnecting(client, *older)
    if grouped:
        assert next(batches)["n"].to_list() == [12]
    else:
        with pytest.raises(DataLossError, match=r"10-0 has been read and is gone.*12-0"):
            next(batches)


@pytest.mark.parametrize("streams", ["s", ["s", "t"]], ids=["one", "several"])
@pytest.mark.parametrize("withheld", ["xrange", "xinfo|stream", "eval", "command"])
def test_a_user_who_may_not_ask_reads_on(
    redis810: Server, client: redis.Redis, streams: str | list[str], withheld: str
) -> None:
    commands = ["+@all", f"-{withheld}"]
    client.acl_setuser("reader", enabled=True, passwords=["+secret"], keys=["*"], commands=commands)
    ten(client)
    add_numbers(client, "t", 3)
    url = f"redis://reader:secret@{HOST}:{redis810.port}"
    try:
        batches = iter_stream(url, streams, NUMBER, "-", block_ms=300)
        rows = 0
        while rows < (10 if streams == "s" else 13):
            rows += next(batches).height
        # With the last entry gone and the first there, all is asked that there is to ask.
        reconnecting(client, *OF_8_2["XTRIM ACKED"], ("XADD", "s", "12-0", "n", 12))
        assert next(batches)["n"].to_list() == [12]
    finally:
        client.acl_deluser("reader")
