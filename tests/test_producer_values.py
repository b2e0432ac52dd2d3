"""Values of NumPy, pandas and enums, which are numbers and times with texts of their own."""

from __future__ import annotations

import datetime as dt
import signal
import zoneinfo
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import redfloe
from support.server import Server


class Price(Decimal):
    def __str__(self) -> str:
        return "a price"


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
#: Each with its dtype, and what is read.
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "mean": (np.float64(2.5), pl.Float64, 2.5),
    "half": (np.float32(0.5), pl.Float64, 0.5),
    "count": (np.int64(3), pl.Int64, 3),
    "flag": (np.bool_(True), pl.Boolean, True),
    "status": (HTTPStatus.OK, pl.Int64, 200),
    "signal": (signal.SIGTERM, pl.Int64, 15),
    "price": (Price("1.50"), pl.Decimal(10, 2), Decimal("1.50")),
    "at": (pd.Timestamp(2024, 1, 2), pl.Datetime("us"), pd.Timestamp(2024, 1, 2)),
    "never": (pd.NaT, pl.Datetime("us"), None),
    # The sun's time in Berlin, 53 minutes and 28 seconds before Greenwich's.
    "then": (
        dt.datetime(1890, 1, 1, 12, tzinfo=BERLIN),
        pl.Datetime("us", "UTC"),
        dt.datetime(1890, 1, 1, 11, 6, 32, tzinfo=zoneinfo.ZoneInfo("UTC")),
    ),
}


@pytest.mark.parametrize("payload", [None, "data"])
def test_each_is_read_as_what_it_is(any_server: Server, stream: str, payload: str | None) -> None:
    with redfloe.StreamProducer(any_server.url, stream, payload=payload) as producer:
        producer.send({name: value for name, (value, _, _) in VALUES.items()})
    frame = redfloe.read_stream(
        any_server.url,
        stream,
        {name: dtype for name, (_, dtype, _) in VALUES.items()},
        payload=payload,
        include_id=False,
        include_timestamp=False,
    )
    assert frame.row(0, named=True) == {name: value for name, (_, _, value) in VALUES.items()}


@pytest.mark.parametrize("depth", [128, 129])
def test_documents_are_no_deeper_than_readers_take(
    any_server: Server, stream: str, depth: int
) -> None:
    value: Any = 1
    dtype: Any = pl.Int64
    for _ in range(depth):
        value, dtype = [value], pl.List(dtype)
    frame = pl.DataFrame({"deep": [value]}, schema={"deep": dtype})
    if depth == 129:
        with pytest.raises(redfloe.SchemaError, match="more than 128 levels"):
            redfloe.write_stream(any_server.url, frame, stream, payload="data")
        with redfloe.StreamProducer(any_server.url, stream, payload="data") as producer:
            with pytest.raises(ValueError, match="more than 128 levels"):
                producer.send({"deep": value})
        return
    redfloe.write_stream(any_server.url, frame, stream, payload="data")
    with redfloe.StreamProducer(any_server.url, stream, payload="data") as producer:
        producer.send({"deep": value})
    read = redfloe.read_stream(any_server.url, stream, {"deep": dtype}, payload="data")
    assert read["deep"].to_list() == [value] * 2


@pytest.mark.parametrize("payload", [None, "data"])
@pytest.mark.parametrize("unit", ["ns", "s"])
def test_a_span_of_numpy_is_refused(stream: str, payload: str | None, unit: Any) -> None:
    nowhere = redfloe.RedisConnection("redis://127.0.0.1:1", max_retries=0)
    with redfloe.StreamProducer(nowhere, stream, payload=payload) as producer:
        with pytest.raises(TypeError, match="timedelta64"):
            producer.send({"took": np.timedelta64(5, unit)})


@pytest.mark.parametrize("payload", [None, "data"])
def test_a_time_with_a_zone_is_refused(stream: str, payload: str | None) -> None:
    nowhere = redfloe.RedisConnection("redis://127.0.0.1:1", max_retries=0)
    with redfloe.StreamProducer(nowhere, stream, payload=payload) as producer:
        with pytest.raises(ValueError, match="has a time zone"):
            producer.send({"at": dt.time(1, 2, tzinfo=dt.UTC)})
