"""How tables are loaded: by a processor through its lane, and by anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import DecodeError, FencedError, RedisConnectionError, WrongTypeError
from redfloe._processing.state import ProcessorState
from redfloe._processing.table import Table, table_request
from support.clients import quick
from support.processing import load_state, load_table, read_hash
from support.proxy import Proxy
from support.server import HOST, Server
from support.timing import eventually

STOCK = {"left": pl.Int64, "name": pl.String}


def load(url: Any) -> Table:
    return load_table(url, b"table", table_request("sku", STOCK))


def read(url: Any) -> pl.DataFrame:
    return read_hash(url, b"table", key="sku", schema=STOCK)


def is_in_step(server: Server) -> bool:
    return bool(server.client().info("replication")["master_link_status"] == "up")


@pytest.mark.parametrize(
    ("read", "command"), [(read, "hscan"), (lambda url: load(url).frame(), "evalsha")]
)
def test_a_large_table_comes_in_pages(
    server: Server,
    client: redis.Redis,
    protocol: str,
    read: Callable[[Any], pl.DataFrame],
    command: str,
) -> None:
    expected = {f"k{n}": n for n in range(25_000)}
    client.hset(
        "table", mapping={key: f'{{"left":{n},"name":"n{n}"}}' for key, n in expected.items()}
    )
    client.config_resetstat()
    frame = read(server.url + protocol)
    assert dict(frame.select("sku", "left").iter_rows()) == expected
    stats = client.info("commandstats")
    assert stats[f"cmdstat_{command}"]["calls"] >= 3
    assert "cmdstat_hgetall" not in stats


def test_a_row_of_many_is_found(any_server: Server, client: redis.Redis) -> None:
    client.hset("table", mapping={f"k{n}": f'{{"name":"n{n}"}}' for n in range(25_000)})
    found = load(any_server.url).lookup(pl.Series("sku", ["k24999", "k0"]))
    assert found["name"].to_list() == ["n24999", "n0"]


def test_a_small_table_comes_in_one_step(
    any_server: Server, client: redis.Redis, protocol: str
) -> None:
    client.hset("table", mapping={f"k{n}": f'{{"left":{n}}}' for n in range(9_000)})
    client.config_resetstat()
    frame = read(any_server.url + protocol)
    assert sorted(frame["left"]) == [*range(9_000)]
    assert "cmdstat_hscan" not in client.info("commandstats")
    assert load(any_server.url + protocol).frame().sort("left").equals(frame.sort("left"))


def test_a_read_begins_anew_after_a_lost_connection(
    any_server: Server, client: redis.Redis
) -> None:
    client.hset("table", mapping={f"k{n}": f'{{"left":{n}}}' for n in range(25_000)})
    with Proxy(any_server.port) as proxy:
        fault = proxy.cut_after(50_000, once_seen=b"HSCAN", skip=1)
        frame = read(quick(proxy.url))
        assert fault.hits == 1
    assert sorted(frame["left"]) == [*range(25_000)]


def after_a_page(proxy: Proxy, act: Callable[[], object]) -> None:
    """Do something once the first page of a load was answered: acquire, page, page."""
    proxy.before(b"EVALSHA", lambda number: number == 3 and act())


@pytest.mark.parametrize("load_it", [load, lambda url: load_state(url, b"table")])
def test_a_load_begins_anew_on_another_server(
    any_server: Server, load_it: Callable[[Any], Table | ProcessorState]
) -> None:
    """A cursor is the server's that gave it; with another's, fields would be left out."""
    at_once = ["--repl-diskless-sync-delay", "0"]
    with ExitStack() as stack:
        first = stack.enter_context(Server(any_server.name, args=at_once))
        client = first.client()
        client.hset("table", mapping={f"k{n}": f'{{"left":{n}}}' for n in range(25_000)})
        replicates = ["--replicaof", HOST, str(first.port)]
        other = stack.enter_context(Server(any_server.name, args=replicates))
        eventually(lambda: is_in_step(other), seconds=10)
        load_it(first.url)  # the server knows the scripts
        proxy = stack.enter_context(Proxy(first.port))

        def fail_over() -> None:
            client.wait(1, 5_000)
            other.client().replicaof("NO", "ONE")
            proxy.redirect(other.port)

        after_a_page(proxy, fail_over)
        fault = proxy.cut_after(0, once_seen=b"EVALSHA", skip=2)
        loaded = load_it(quick(proxy.url))
        assert (fault.hits, len(loaded)) == (1, 25_000)


def test_a_load_is_fenced(any_server: Server, client: redis.Redis) -> None:
    """What a successor has written is not read, in the middle of a load neither."""
    client.hset("table", mapping={f"k{n}": f'{{"left":{n}}}' for n in range(25_000)})
    load(any_server.url)
    with Proxy(any_server.port) as proxy:
        after_a_page(proxy, lambda: load(any_server.url))
        with pytest.raises(FencedError, match="has acquired the lane"):
            load(proxy.url)


def test_another_type_of_key(any_server: Server, client: redis.Redis) -> None:
    client.set("table", "x")
    with pytest.raises(WrongTypeError, match=r'"table" holds a string.*table: table'):
        load(any_server.url)
    with pytest.raises(WrongTypeError, match=r"other than a hash.*table: table"):
        read(any_server.url)


def test_no_server() -> None:
    for act in (load, read):
        with pytest.raises(RedisConnectionError):
            act(quick("redis://127.0.0.1:1", connect_timeout=0.3))
