"""What ``redfloe demo`` does."""

from __future__ import annotations

import secrets
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

import polars as pl

import redfloe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

_ZONE = "America/New_York"
_TIMESTAMP = pl.Datetime("ms", _ZONE)
_BATCH = 1_000
_EXPIRY_SECONDS = 3_600


class DemoError(Exception):
    """The demo cannot go on; the text says why, and what to do."""


def run_demo(url: str | None) -> None:
    """Publish flights, read them back, check and aggregate them, and print all that.

    Without a URL on a server that is started for it and stopped again.

    Raises
    ------
    DemoError
        Something is missing, the server refuses, or the frame read is not the one published.
    """
    try:
        import redis
    except ModuleNotFoundError as error:
        msg = "redis-py is needed to tidy up; `pip install 'redfloe[demo]'` brings it"
        raise DemoError(msg) from error

    published = load_flights()
    _say(f"redfloe {redfloe.__version__}: {published.height:,} flights through a Redis stream\n")
    with ExitStack() as stack:
        try:
            if url is None:
                url = stack.enter_context(redfloe.local_server())
                _say(f"server     {url}, started for this demo")
            else:
                _say(f"server     {_without_password(url)}, yours: one key is added and removed")
            client = stack.enter_context(redis.Redis.from_url(url))
        except (FileNotFoundError, RuntimeError, ValueError) as error:
            raise DemoError(str(error)) from error
        try:
            read = _through_redis(url, client, published)
        except (redis.RedisError, redfloe.RedfloeError) as error:
            raise DemoError(str(error)) from error

    _show(
        f"The frame has {read.width} columns; four of them:",
        read.select("_id", "_ts", "carrier", "arr_delay"),
    )
    _show(
        "\nMean arrival delay in minutes, the most punctual carrier first:",
        read.group_by("carrier")
        .agg(pl.len().alias("flights"), pl.mean("arr_delay").round(2).alias("mean_arr_delay"))
        .sort("mean_arr_delay"),
    )


def _through_redis(url: str, client: redis.Redis, published: pl.DataFrame) -> pl.DataFrame:
    """Publish a frame, read it back and check that it is the same."""
    schema = published.drop("_id", "_ts").schema
    with _own_key(client) as key:
        start = time.perf_counter()
        publish(url, client, key, published)
        _say(_rate("published", published, start, "redfloe.write_stream"))

        start = time.perf_counter()
        read = redfloe.read_stream(url, key, schema=schema, timestamp_dtype=_TIMESTAMP)
        _say(_rate("read", read, start, "redfloe.read_stream"))
    check_equal(read, published)
    nulls = sum(read.null_count().row(0))
    _say(f"checked    the frame read equals the one published, with its {nulls:,} nulls\n")
    return read


def load_flights() -> pl.DataFrame:
    """Give the flights as `read_stream` is to give them back: in stream order, with their IDs.

    A flight's ID has the milliseconds of its scheduled departure. Many depart in the same minute,
    so the sequence number counts them.
    """
    data = files("redfloe").joinpath("data", "flights-2013-01.parquet").read_bytes()
    hour, minute = pl.col("sched_dep_time") // 100, pl.col("sched_dep_time") % 100
    departure = pl.datetime("year", "month", "day", hour, minute, time_zone=_ZONE)
    flights = (
        pl.read_parquet(data)
        .with_columns(departure.cast(_TIMESTAMP).alias("_ts"))
        .sort("_ts", maintain_order=True)
    )
    sequence = pl.int_range(pl.len()).over("_ts")
    entry_id = pl.format("{}-{}", pl.col("_ts").dt.epoch("ms"), sequence).alias("_id")
    return flights.select(entry_id, "_ts", pl.exclude("_ts"))


def publish(url: str, client: redis.Redis, key: str, flights: pl.DataFrame) -> None:
    """Add one entry per row; a null is an absent field."""
    first, rest = flights.head(1), flights.tail(-1)
    with _signals_held():
        redfloe.write_stream(url, first, key, id_column="_id")
        # Should this process be killed, nobody else removes the key.
        client.expire(key, _EXPIRY_SECONDS)
    # Interrupted, it ends when what was sent has arrived: nothing brings the key back afterwards.
    redfloe.write_stream(url, rest, key, id_column="_id", batch_size=_BATCH)


def check_equal(read: pl.DataFrame, published: pl.DataFrame) -> None:
    """Raise `DemoError` that names the first difference, if there is one."""
    if read.schema != published.schema:
        msg = f"the columns read differ from those published: {read.schema}, {published.schema}"
        raise DemoError(msg)
    if read.height != published.height:
        msg = f"{published.height:,} entries were published, but {read.height:,} read"
        raise DemoError(msg)
    for column in published.columns:
        differs = read[column].ne_missing(published[column])
        for row in differs.arg_true().head(1):
            values = f"{read[column][row]!r} instead of {published[column][row]!r}"
            msg = f"entry {published['_id'][row]} was read with {column} = {values}"
            raise DemoError(msg)


@contextmanager
def _own_key(client: redis.Redis) -> Iterator[str]:
    """Give a key that nobody else uses, and remove it whatever happens."""
    from redis import RedisError

    key = f"redfloe:demo:{secrets.token_hex(8)}"
    client.ping()  # where nobody answers there will be nothing to remove
    try:
        yield key
    finally:
        with _signals_held():
            try:
                client.unlink(key)
            except RedisError as error:
                print(
                    f"redfloe demo: the key {key} could not be removed; if it is there, it expires "
                    f"within {_EXPIRY_SECONDS // 60} minutes: {error}",
                    file=sys.stderr,
                )


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM take effect when the block is done."""
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _without_password(url: str) -> str:
    return repr(redfloe.RedisConnection(url)).split('"')[1]


def _rate(what: str, frame: pl.DataFrame, start: float, how: str) -> str:
    seconds = time.perf_counter() - start
    entries, rate = f"{frame.height:,} entries", f"{frame.height / seconds:,.0f} entries/s"
    return f"{what:<10} {entries} in {seconds:.2f} s, {rate:>17}  ({how})"


def _show(title: str, frame: pl.DataFrame) -> None:
    _say(title)
    with pl.Config(
        tbl_rows=frame.height if frame.height <= 20 else 8,
        tbl_width_chars=100,
        ascii_tables=not _prints("│"),
    ):
        _say(str(frame))


def _prints(text: str) -> bool:
    """Whether standard output's encoding has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _say(text: str) -> None:
    print(text, flush=True)
