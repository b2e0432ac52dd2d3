"""How tables are loaded: by a processor through its lane, and by anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    DecodeError,
    FencedError,
    RedisConnectionError,
    SchemaError,
    WrongTypeError,
)
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


def read_in_loop(*args: Any, **options: Any) -> pl.DataFrame:
    return asyncio.run(redfloe.read_table_async(*args, **options))


def scan(*args: Any, **options: Any) -> pl.DataFrame:
    return redfloe.scan_table(*args, **options).collect()


@pytest.mark.parametrize("read", [redfloe.read_table, read_in_loop, scan])
def test_anybody_reads_a_table(
    any_server: Server, client: redis.Redis, read: Callable[..., pl.DataFrame]
) -> None:
    where = any_server.url, "sales", "inventory", "stock"
    schema = {"shop": pl.Int32, "left": pl.Int64}
    frame = read(*where, key=["sku", "shop"], schema=schema)
    assert frame.height == 0
    assert frame.schema == {"sku": pl.String, **schema}
    rows: dict[Any, Any] = {'["a",1]': '{"left":5,"more":[1]}', '["b",2]': "{}"}
    client.hset(redfloe.table_key(*where[1:]), mapping=rows)
    frame = read(*where, key=["sku", "shop"], schema=schema)
    assert frame.sort("sku").rows() == [("a", 1, 5), ("b", 2, None)]
    with pytest.raises(
        (DecodeError, pl.exceptions.ComputeError), match=r"is not an integer.*a.*,1.*column: more"
    ):
        read(*where, key=["sku", "shop"], schema={**schema, "more": pl.Int8})


def test_a_scan_parses_only_what_the_query_needs(any_server: Server, client: redis.Redis) -> None:
    client.hset(
        redfloe.table_key("s", "p", "t"),
        mapping={f"k{n}": f'{{"n":{n},"odd":"x","kind":"{"ab"[n % 2]}"}}' for n in range(100)},
    )
    kind = pl.Enum(["a", "b"])
    schema: dict[str, Any] = {"n": pl.Int64, "odd": pl.Int64, "kind": kind}
    lazy = redfloe.scan_table(any_server.url, "s", "p", "t", key="k", schema=schema)
    assert lazy.collect_schema() == {"k": pl.String, **schema}
    for engine in ("in-memory", "streaming"):
        few = lazy.filter(pl.col("n") >= 97).select("k", "kind").collect(engine=engine)
        assert few.sort("k").rows() == [("k97", "b"), ("k98", "a"), ("k99", "b")]
        assert few.schema == {"k": pl.String, "kind": kind}
        assert lazy.select("k").collect(engine=engine).height == 100
        assert lazy.select(pl.len()).collect(engine=engine).item() == 100
        assert lazy.select("n").head(3).collect(engine=engine).height == 3
        assert lazy.select("n").top_k(2, by="n").collect(engine=engine)["n"].sum() == 197
        with pytest.raises((DecodeError, pl.exceptions.ComputeError), match="column: odd"):
            lazy.collect(engine=engine)
    with pytest.raises(SchemaError, match="key must name"):
        redfloe.scan_table(any_server.url, "s", "p", "t", key=[], schema=schema)
    with pytest.raises(TypeError, match="table must be str or bytes"):
        redfloe.scan_table(any_server.url, "s", "p", 7, key="k", schema=schema)  # type: ignore[arg-type] # wrong on purpose


def test_the_key_of_a_table() -> None:
    assert (
        redfloe.table_key("{t}:s", "a:b", "é%")
        == "{t}:redfloe:%7Bt%7D%3As:a%3Ab:table:é%25".encode()
    )
