"""Values of other libraries' frames that Polars would change while it imports them are refused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
import redis

from redfloe import SchemaError, write_stream
from support.server import Server


def of_type(dtype: Any, *values: int | None) -> Any:
    """An array of what Arrow stores, whether or not pyarrow would take it."""
    storage = pa.int64() if dtype.bit_width == 64 else pa.int32()
    array = pa.array(values, storage)
    return pa.Array.from_buffers(dtype, len(values), array.buffers())


BEYOND = 2**60
A_DAY = 86_400

#: A good value, a null and one that Polars would change, in row 2; and what the refusal says.
CHANGED: dict[str, tuple[Callable[[], Any], str]] = {
    "timestamp": (lambda: of_type(pa.timestamp("s"), 0, None, BEYOND), f"timestamp of {BEYOND} s"),
    "zoned": (lambda: of_type(pa.timestamp("s", "UTC"), 0, None, -BEYOND), f"of -{BEYOND} seconds"),
    "duration": (lambda: of_type(pa.duration("s"), 0, None, BEYOND), f"duration of {BEYOND} s"),
    **{
        f"time {unit}": (
            partial(of_type, dtype, A_DAY * per_second - 1, None, value),
            f"value {value} of .*, which is no time of a day",
        )
        for unit, dtype, per_second in (
            ("s", pa.time32("s"), 1),
            ("ms", pa.time32("ms"), 10**3),
            ("us", pa.time64("us"), 10**6),
            ("ns", pa.time64("ns"), 10**9),
        )
        for value in (A_DAY * per_second,)
    },
    "negative time": (lambda: of_type(pa.time64("ns"), 0, None, -1), "value -1 of"),
    "list": (
        lambda: pa.ListArray.from_arrays(
            pa.array([0, 1, 1, 2], pa.int32()), of_type(pa.timestamp("s"), 0, BEYOND)
        ),
        "timestamp",
    ),
    "fixed-size list": (
        lambda: pa.FixedSizeListArray.from_arrays(
            of_type(pa.duration("s"), 1, 2, None, None, 0, BEYOND), 2
        ),
        "duration",
    ),
    "struct": (
        lambda: pa.StructArray.from_arrays(
            [of_type(pa.time64("us"), 0, -1, -1)], ["t"], mask=pa.array([False, True, False])
        ),
        "value -1 of",
    ),
    "dictionary": (
        lambda: pa.DictionaryArray.from_arrays(
            pa.array([0, None, 2]), of_type(pa.timestamp("s"), 0, BEYOND + 1, BEYOND)
        ),
        f"of {BEYOND} seconds",
    ),
}


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize(("make", "refusal"), CHANGED.values(), ids=CHANGED)
def test_values_that_polars_would_change_are_refused(
    any_server: Server,
    client: redis.Redis,
    make: Callable[[], Any],
    refusal: str,
    as_stream: bool,
) -> None:
    ahead = pa.table({"n": [1, 2], "value": make().slice(0, 2)})
    frame = pa.concat_tables([ahead, pa.table({"n": [3, 4, 5], "value": make()})])
    if as_stream:
        frame = frame.to_reader()
    with pytest.raises(SchemaError, match=rf'the column "value" has .*{refusal}.*\(row: 4\)'):
        write_stream(any_server.url, frame, "s")
    assert not client.exists("s")


def test_seconds_and_times_that_fit_are_written(any_server: Server, client: redis.Redis) -> None:
    frame = pa.table(
        {
            "at": pa.array([1], pa.timestamp("s")),
            "t": of_type(pa.time64("ns"), A_DAY * 10**9 - 1),
            "kind": pa.array(["a"]).dictionary_encode(),
            "price": pa.array([Decimal("1.5")], pa.decimal128(20, 2)),
        }
    )
    expected = {
        b"at": b"1970-01-01T00:00:01",
        b"t": b"23:59:59.999999999",
        b"kind": b"a",
        b"price": b"1.50",
    }
    for same in (frame, frame.to_reader(), frame.slice(0, 0).to_reader()):
        write_stream(any_server.url, same, "s")
    assert [fields for _, fields in client.xrange("s") or []] == [expected, expected]
