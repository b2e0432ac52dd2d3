"""Tables of processors, read by anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from redfloe import _core
from redfloe._checks import as_key
from redfloe._event_loop import completed
from redfloe._processing.table import Table, TableRequest, table_request
from redfloe._reading.shards import shards_of, shards_of_async

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redfloe._core import RedisConnection
    from redfloe._schema import SchemaLike


def table_key(stream: str | bytes, name: str | bytes, table: str | bytes) -> bytes:
    """Give the key of a processor's table in Redis: a hash with a JSON row for each key.

    Parameters
    ----------
    stream, name : str or bytes
        The input stream's key, and the processor's name.
    table : str or bytes
        The table's name.

    Returns
    -------
    bytes
        The key, such as ``HGET`` takes it. It is in the slot of the stream; ``%``, ``:``, ``{`` and
        ``}`` within the names are percent-encoded.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.table_key("sales", "inventory", "stock")
    b'{sales}:redfloe:sales:inventory:table:stock'
    """
    return _core.table_key(as_key(stream, "stream"), as_key(name, "name"), as_key(table, "table"))


def read_table(
    url: str | RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    table: str | bytes,
    *,
    key: str | Sequence[str],
    schema: SchemaLike,
) -> pl.DataFrame:
    """Read a processor's table as a DataFrame, from any program, while the processor runs.

    HGETALL up to 10,000 rows, which is one moment of the table; beyond that HSCAN (Redis 2.8), page
    by page, where a commit meanwhile may show in some rows and not in others. In a cluster it may
    come from a replica, where the connection says so (`read_from`).

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, name : str or bytes
        The processor's input stream, and its name. Of a sharded stream the tables of all lanes are
        one frame.
    table : str or bytes
        The table's name, as in ``tx.table("stock", ...)``.
    key : str or sequence of str
        The columns of the key, as the processor names them.
    schema : mapping of str to dtype
        The columns to read, and their dtypes. Those of the key may be among them; they are String
        otherwise. What else is in the rows is left out, and what they lack is null.

    Returns
    -------
    pl.DataFrame
        The key's columns and then the others, the rows in no particular order; empty where there is
        no table.

    Raises
    ------
    DecodeError
        A key or a value does not fit its dtype; the message names key and column.
    SchemaError
        A key has a dtype that no key can have, or there is no column beside it.
    WrongTypeError
        It is no hash.
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        As for `read_stream`.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> schema = {"user_id": pl.String, "value": pl.Int64}
    >>> with redfloe.StreamProcessor(
    ...     url, "events", name="totals", schema=schema, on_idle="stop", block_ms=1
    ... ) as processor:
    ...     for tx in processor:
    ...         users = tx.table("users", key="user_id", schema={"value": pl.Int64})
    ...         users.upsert(tx.frame)
    >>> df = redfloe.read_table(
    ...     url, "events", "totals", "users", key="user_id", schema={"value": pl.Int64}
    ... )
    >>> df.sort("user_id").rows()
    [('user_1', 10), ('user_2', None)]
    """
    url = _core.connect(url)
    request = table_request(key, schema, null_keys=True)
    return _frame(url, (stream, name, table), request)


async def read_table_async(
    url: str | RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    table: str | bytes,
    *,
    key: str | Sequence[str],
    schema: SchemaLike,
) -> pl.DataFrame:
    """Read a processor's table as a DataFrame: the asynchronous twin of `read_table`.

    Parameters
    ----------
    url, stream, name, table, key, schema
        As for `read_table`.

    Returns
    -------
    pl.DataFrame
        As for `read_table`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import polars as pl
    >>> import redfloe
    >>> reading = redfloe.read_table_async(
    ...     url, "sales", "inventory", "stock", key="sku", schema={"left": pl.Int64}
    ... )
    >>> asyncio.run(reading).height
    0
    """
    url = _core.connect(url)
    request = table_request(key, schema, null_keys=True)
    reading = _core.read_table(url, table_key(stream, name, table), request)
    frame = Table(await completed(reading.start()), request).frame()
    shards = await shards_of_async(url, stream) if frame.is_empty() else []
    frames = []
    for shard in shards:
        reading = _core.read_table(url, table_key(shard, name, table), request)
        frames.append(Table(await completed(reading.start()), request).frame())
    return pl.concat(frames) if frames else frame


def scan_table(
    url: str | RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    table: str | bytes,
    *,
    key: str | Sequence[str],
    schema: SchemaLike,
) -> pl.LazyFrame:
    """Scan a processor's table lazily: for joins with streams and files.

    Nothing is read before `collect`, and then the whole table, as by `read_table`: a hash has no
    order by which a filter could narrow it. Columns that the query does not select are not parsed.

    Parameters
    ----------
    url, stream, name, table, key, schema
        As for `read_table`.

    Returns
    -------
    pl.LazyFrame
        Columns as those of `read_table`.

    Raises
    ------
    SchemaError, ValueError, TypeError
        At once, where an argument cannot be right.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, DecodeError
        When the query runs. Polars may wrap them in its own ``ComputeError``, whose message then
        begins with their name.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> stock = redfloe.scan_table(
    ...     url, "sales", "inventory", "stock", key="sku", schema={"left": pl.Int64}
    ... )
    >>> stock.filter(pl.col("left") < 10).collect().height
    0
    """
    from redfloe._reading.scan import register

    url = _core.connect(url)
    _core.check_connection(url)
    request = table_request(key, schema, null_keys=True)
    named = (stream, name, table)
    table_key(*named)  # so that what cannot be a name raises now
    columns = pl.Schema({**request["key"], **request["schema"]})

    def batches(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        _batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        from redfloe._reading.pushdown import without_dynamic

        wanted = [
            name for name in request["schema"] if with_columns is None or name in with_columns
        ]
        # A table has a column beside its key.
        names = wanted or [*request["schema"]][:1]
        projected = request | {"schema": pl.Schema({n: request["schema"][n] for n in names})}
        frame = _frame(url, named, projected)
        # In this order: Polars passes both for a filter after a `head`.
        if n_rows is not None:
            frame = frame.head(n_rows)
        if predicate is not None and (predicate := without_dynamic(predicate)) is not None:
            frame = frame.filter(predicate)
        # To select nothing would lose the height.
        yield frame[with_columns or (names if with_columns is not None else columns.names())]

    return register(batches, columns, f"table {table!r}")


def _frame(
    url: RedisConnection,
    named: tuple[str | bytes, str | bytes, str | bytes],
    request: TableRequest,
) -> pl.DataFrame:
    """Read a table; where there is none, and the stream is a sharded one, those of its lanes."""
    stream, name, table = named

    def of(stream: str | bytes) -> pl.DataFrame:
        reading = _core.read_table(url, table_key(stream, name, table), request)
        return Table(reading.wait(), request).frame()

    frame = of(stream)
    shards = shards_of(url, stream) if frame.is_empty() else []
    return pl.concat(map(of, shards)) if shards else frame
