"""Handlers of columns, whose next batch is asked for while one is on its way to them."""

from __future__ import annotations

import threading
import time

import polars as pl
import pytest
import redis

import redfloe
from redfloe.messages import App, MisfitError
from redfloe.messages._codecs import RowCodec, Rows
from support.events import OrderPlaced, orders, pending, publish
from support.server import Server
from support.timing import eventually, in_thread


def test_a_stop_loses_nothing_that_was_asked_for_ahead(
    redis70: Server, client: redis.Redis, stream: str
) -> None:
    publish(redis70, *orders(40), stream=stream)
    got: list[int] = []
    sizes: list[int] = []
    for stop_at in (1, 2, 3, None):
        app = App(redis70.url, group="g", consumer="c", batch_size=5)

        @app.on_batch(stream, OrderPlaced)
        def load(frame: pl.DataFrame, app: App = app, stop_at: int | None = stop_at) -> None:
            got.extend(frame["order_id"])
            sizes.append(frame.height)
            if stop_at is not None and len(sizes) >= stop_at:
                app.stop()

        if stop_at is None:
            app.drain()
        else:
            app.run()
    assert sorted(got) == [*range(1, 41)]
    assert max(sizes) == 5
    assert pending(client, stream, "g") == 0


def test_one_batch_waits_while_another_is_handled(
    redis70: Server, client: redis.Redis, stream: str
) -> None:
    publish(redis70, *orders(40), stream=stream)
    app = App(redis70.url, group="g", consumer="c", batch_size=5)
    begun, go_on = threading.Event(), threading.Event()

    @app.on_batch(stream, OrderPlaced)
    def load(frame: pl.DataFrame) -> None:
        begun.set()
        go_on.wait(10)

    with in_thread(app.drain) as drained:
        assert begun.wait(10)
        eventually(lambda: pending(client, stream, "g") >= 10)
        time.sleep(0.1)
        assert pending(client, stream, "g") == 10
        go_on.set()
        drained()
    assert pending(client, stream, "g") == 0


def test_a_misfit_is_raised_though_the_next_batch_was_asked_for(
    redis70: Server, client: redis.Redis, stream: str
) -> None:
    publish(redis70, *orders(5), stream=stream)
    client.xadd(stream, {"_type": "OrderPlaced", "order_id": "many"})
    publish(redis70, *orders(20), stream=stream)
    app = App(redis70.url, group="g", consumer="c", batch_size=5, on_misfit="raise")
    got: list[int] = []
    app.on_batch(stream, OrderPlaced)(lambda frame: got.extend(frame["order_id"]))
    with pytest.raises(MisfitError, match="order_id: 'many' does not fit"):
        app.drain()
    app = App(redis70.url, group="g", consumer="c", batch_size=5, dead_letter="{stream}:dead")
    app.on_batch(stream, OrderPlaced)(lambda frame: got.extend(frame["order_id"]))
    app.drain()
    assert sorted(got) == sorted([*range(1, 6), *range(1, 21)])
    assert client.xlen(f"{stream}:dead") == 1
    assert pending(client, stream, "g") == 0


class Refusing(RowCodec):
    """Cannot read what it reads."""

    def rows(self, frame: pl.DataFrame) -> Rows:
        raise redfloe.DecodeError(f"no rows in {frame.height}")


def test_what_a_codec_cannot_decode_is_its_own(redis70: Server, stream: str) -> None:
    publish(redis70, *orders(2), stream=stream)
    app = App(redis70.url, group="g", consumer="c", codec=Refusing())
    app.on(stream, OrderPlaced)(lambda event: None)
    with pytest.raises(redfloe.DecodeError, match=r"^no rows in 2$"):
        app.drain()
