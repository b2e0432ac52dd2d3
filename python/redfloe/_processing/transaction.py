"""A batch of a processor, and all that is written with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redfloe._processing.base_transaction import BaseTransaction
from redfloe._processing.session import without_waiting
from redfloe._processing.table import table_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    import polars as pl

    from redfloe._checks import Milliseconds
    from redfloe._frame import ArrowStream
    from redfloe._processing.session import Session
    from redfloe._processing.table import Keys, Table
    from redfloe._processing.windows.window import Window
    from redfloe._schema import SchemaLike


class Transaction(BaseTransaction):
    """A batch of a `StreamProcessor`, and what is to be committed with it.

    The outputs that were published, the changes of tables and of the state, dead letters and the
    position after the batch are written in one step, once, or not at all. Until then nothing is
    sent. It ends with its commit, which comes when the loop asks for the next batch, at the end of
    the ``with``, or by `commit`; and without one where an exception leaves the ``with``. Then it
    refuses everything.

    Attributes
    ----------
    frame : pl.DataFrame
        The rows, as `read_stream` gives them.
    """

    _session: Session[Transaction]

    def table(
        self,
        name: str | bytes,
        *,
        key: str | Sequence[str],
        schema: SchemaLike,
        event_time: str | None = None,
        expire_after: Milliseconds | None = None,
    ) -> Table:
        """Give one of the processor's tables, whose changes are saved with the commit.

        It is loaded once, through the processor's lane (HSCAN, Redis 2.8), and then kept; a
        commit writes the rows that have changed. Take it from each transaction again.

        Parameters
        ----------
        name : str or bytes
            Its name. It is a hash of its own, ``{sales}:redfloe:sales:inventory:table:stock``.
        key : str or sequence of str
            The columns of the key. They have the dtypes of `schema`, else those of the processor's
            `schema`, else String.
        schema : mapping of str to dtype
            The other columns, and their dtypes.
        event_time : str, optional
            The column of times by which rows expire.
        expire_after : int or timedelta, optional
            Delete rows whose `event_time` is that many milliseconds older than the newest that the
            table has seen.

        Raises
        ------
        DecodeError
            A key or a row that was saved does not fit.
        SchemaError, ValueError, TypeError
            The columns cannot be right, or others than the processor has used before.
        WrongTypeError
            Its key holds something else.
        FencedError
            Another processor of this name has the lane.
        RuntimeError
            The transaction has ended.
        """
        columns = (key, schema, event_time, expire_after)
        return without_waiting(self._session.table(self, name, *columns))

    def window(
        self,
        name: str | bytes,
        *,
        every: str | Milliseconds | None = None,
        period: str | Milliseconds | None = None,
        gap: str | Milliseconds | None = None,
        by: str | Sequence[str] = (),
        aggs: Mapping[str, pl.Expr],
        time: str = "_ts",
        lateness: str | Milliseconds | None = "30s",
        idle_close: str | Milliseconds | None = None,
        close_at_end: bool = False,
        rows: pl.DataFrame | ArrowStream | None = None,
    ) -> Window:
        """Group rows into windows of event time, whose aggregates are kept until they close.

        A window takes rows in batch after batch; what it has so far is in the processor's state, a
        row for each open window and key, of which a commit writes those that have changed. It
        closes once the *watermark* has come to its end: the newest time that was seen, minus
        `lateness`. Then it is in `Window.closed`, once, and leaves the state with the commit. Rows
        that come later are in `Window.late`. None of it depends on how the stream is divided into
        batches.

        Take each window once in each transaction, also in one without rows: see `idle_close`.

        Parameters
        ----------
        name : str or bytes
            Its name. Windows of different names have nothing to do with each other.
        every : str, timedelta or int, optional
            Begin a window that often: ``"1m"``, ``"1h30m"``, ``"1mo"``, as Polars'
            `group_by_dynamic` has it, or milliseconds. Windows begin at multiples of that length,
            weeks on Mondays, days and months in the zone of the time.
        period : str, timedelta or int, optional
            How long each window is, by default `every`. A longer one has windows overlap, and rows
            be in several.
        gap : str, timedelta or int, optional
            In place of `every`: a window for each *session*, which ends where no row has come for
            that long. `_upper_boundary` is the time of its last row plus the gap.
        by : str or sequence of str, default ()
            Columns whose values have windows of their own. Null is a value like others.
        aggs : mapping of str to pl.Expr
            What is kept of the rows, by name: len, count, null_count, sum, min, max, mean, std,
            var, first and last (by time, then by the order of the stream), any and all; of
            expressions that look at single rows, also filtered ones, and arithmetic with them.
            Others cannot be put together from parts of a window and are refused.
        time : str, default "_ts"
            The column of event times: a Datetime, or Int64 milliseconds. Without a zone it is taken
            for UTC. Rows without a time, or with one that no calendar has, are late.
        lateness : str, timedelta, int or None, default "30s"
            How far a row may be behind the newest before. None: no row is late, and nothing closes
            by the watermark.
        idle_close : str, timedelta or int, optional
            Where no entry has come for that long, have the server's clock close windows: those that
            end `lateness` before its time. The loop then gives a transaction without rows.
        close_at_end : bool, default False
            Close all windows where the loop ends because the stream is drained
            (``on_idle="stop"``), in a last transaction without rows.
        rows : pl.DataFrame or object with ``__arrow_c_stream__``, optional
            The rows, if not `frame`: filtered, say, or with columns added. In the order of the
            stream.

        Returns
        -------
        Window
            With `closed`, `late`, `open` and `watermark`.

        Raises
        ------
        ValueError
            An aggregate cannot be put together from parts; or the window has open windows that were
            begun with another definition; or it was taken in this transaction before; or there is a
            `group`, or an argument cannot be right.
        SchemaError
            The rows lack a column, or it has a dtype that does not do.
        TypeError
            An argument is of the wrong type.
        DecodeError, WrongTypeError, FencedError
            As for `table`.
        RuntimeError
            The transaction has ended.

        Examples
        --------
        >>> import polars as pl
        >>> import redfloe
        >>> processor = redfloe.StreamProcessor(
        ...     url,
        ...     "events",
        ...     name="per-minute",
        ...     schema={"action": pl.String, "value": pl.Int64},
        ...     on_idle="stop",
        ...     block_ms=1,
        ... )
        >>> def count(tx):
        ...     minutes = tx.window(
        ...         "minutes",
        ...         every="1m",
        ...         by="action",
        ...         aggs={"n": pl.len(), "total": pl.col("value").sum()},
        ...         close_at_end=True,
        ...     )
        ...     tx.publish("per-minute", minutes.closed)
        >>> processor.run(count)
        >>> redfloe.read_stream(url, "per-minute").select("action", "n", "total").rows()
        [('click', '1', '10'), ('view', '1', '0')]
        """
        from redfloe._processing.windows.definition import declare

        declared = declare(every, period, gap, by, aggs, time, lateness, idle_close, close_at_end)
        return without_waiting(self._session.window(self, name, declared, rows))

    def lookup(
        self,
        stream: str | bytes,
        name: str | bytes,
        table: str | bytes,
        keys: Keys,
        *,
        key: str | Sequence[str],
        schema: SchemaLike,
    ) -> pl.DataFrame:
        """Look up rows of another processor's table, by their keys (HMGET, Redis 2.0): a join.

        Nothing of it is kept: each call asks the server. What the other processor has committed by
        then is what comes, so a batch that is processed again may find other rows.

        Parameters
        ----------
        stream, name, table : str or bytes
            The other processor's input stream, its name, and its table's name, as for `read_table`.
            In a Redis Cluster the stream must share the slot of this processor's. Of two sharded
            streams of as many shards, which are divided by the same values, a lane looks into the
            table of the lane that shares its slot.
        keys : pl.Series, sequence or pl.DataFrame
            The keys; for a key of several columns a frame that has them, among others. They may
            repeat.
        key : str or sequence of str
            The columns of the key, as the other processor names them.
        schema : mapping of str to dtype
            The columns to read, and their dtypes, as for `read_table`.

        Returns
        -------
        pl.DataFrame
            A row for each key, in the order of the keys; nulls where there is none.

        Raises
        ------
        ValueError
            The table is in another slot of the cluster, or has a part for each lane of a sharded
            stream, and this processor has not as many.
        DecodeError
            A value does not fit its dtype.
        SchemaError
            The keys have another dtype than the key.
        WrongTypeError
            It is no hash.
        RedisConnectionError, RedisTimeoutError, AuthenticationError
            As for `read_stream`.
        RuntimeError
            The transaction has ended.
        """
        request = table_request(key, schema, null_keys=True)
        where = stream, name, table
        return without_waiting(self._session.lookups.lookup(self, where, keys, request))

    @property
    def batch_id(self) -> str:
        """What this batch is called: the same if it is processed again, in another process too.

        For a sink outside of Redis, which remembers it beside what it was given, to recognise a
        batch that comes again after a crash. The first look at it fixes where the batch ends (a
        script of HSET), so that the next to process it gets the same entries; so it is processed as
        a whole, and `StreamProcessor.run` does not halve it. It is made of the positions before and
        after the batch, ``1704067200000-0_1704067200001-0``: the next one begins with the second.

        Raises
        ------
        FencedError
            Another processor of this name has the lane.
        ValueError
            It is a part of a batch that had an ID as a whole, and failed.
        RuntimeError
            The transaction has ended.
        """
        return without_waiting(self._session.batch_id(self))

    def commit(self) -> None:
        """Commit now. The transaction has ended then; the next one comes from the loop.

        A script (EVALSHA); one whose reply is lost is sent again and recognised.

        Raises
        ------
        FencedError
            Another processor of this name has acquired the lane: nothing of this commit is in.
        WrongTypeError, AuthenticationError, ResponseError
            The server refuses it, and nothing of it is in.
        DataLossError
            The server has lost earlier commits, or the lane; nothing of this one is in.
        NotDurableError
            It is in, but not known to be where `wait_replicas` and `wait_aof` want it.
        OutcomeUnknownError
            The server could not be reached until the retries were used up. The next batch settles
            it: it begins where the processor is.
        ValueError, TypeError
            The state cannot be saved, or the commit is too large; nothing was sent.
        RuntimeError
            The transaction has ended.
        """
        without_waiting(self._session.commit(self))


class AsyncTransaction(BaseTransaction):
    """A batch of a `StreamProcessor` in an event loop: the asynchronous `Transaction`.

    What asks the server is awaited: ``await tx.table(...)``, ``await tx.commit()``,
    ``await tx.batch_id``.

    Attributes
    ----------
    frame : pl.DataFrame
        The rows, as `read_stream` gives them.
    """

    _session: Session[AsyncTransaction]

    async def table(
        self,
        name: str | bytes,
        *,
        key: str | Sequence[str],
        schema: SchemaLike,
        event_time: str | None = None,
        expire_after: Milliseconds | None = None,
    ) -> Table:
        """Give one of the processor's tables: the asynchronous twin of `Transaction.table`.

        Parameters
        ----------
        name, key, schema, event_time, expire_after
            As for `Transaction.table`.

        Raises
        ------
        DecodeError, SchemaError, ValueError, TypeError, WrongTypeError, FencedError, RuntimeError
            As for `Transaction.table`.
        """
        columns = (key, schema, event_time, expire_after)
        return await self._session.table(self, name, *columns)

    async def window(
        self,
        name: str | bytes,
        *,
        every: str | Milliseconds | None = None,
        period: str | Milliseconds | None = None,
        gap: str | Milliseconds | None = None,
        by: str | Sequence[str] = (),
        aggs: Mapping[str, pl.Expr],
        time: str = "_ts",
        lateness: str | Milliseconds | None = "30s",
        idle_close: str | Milliseconds | None = None,
        close_at_end: bool = False,
        rows: pl.DataFrame | ArrowStream | None = None,
    ) -> Window:
        """Group the batch's rows into windows: the asynchronous twin of `Transaction.window`.

        Parameters
        ----------
        name, every, period, gap, by, aggs, time, lateness, idle_close, close_at_end, rows
            As for `Transaction.window`.

        Raises
        ------
        ValueError, SchemaError, TypeError, DecodeError, WrongTypeError, FencedError, RuntimeError
            As for `Transaction.window`.
        """
        from redfloe._processing.windows.definition import declare

        declared = declare(every, period, gap, by, aggs, time, lateness, idle_close, close_at_end)
        return await self._session.window(self, name, declared, rows)

    async def lookup(
        self,
        stream: str | bytes,
        name: str | bytes,
        table: str | bytes,
        keys: Keys,
        *,
        key: str | Sequence[str],
        schema: SchemaLike,
    ) -> pl.DataFrame:
        """Look up rows of another processor's table: the asynchronous `Transaction.lookup`.

        Parameters
        ----------
        stream, name, table, keys, key, schema
            As for `Transaction.lookup`.

        Raises
        ------
        ValueError, DecodeError, SchemaError, WrongTypeError, RuntimeError
            As for `Transaction.lookup`.
        RedisConnectionError, RedisTimeoutError, AuthenticationError
            As for `Transaction.lookup`.
        """
        request = table_request(key, schema, null_keys=True)
        where = stream, name, table
        return await self._session.lookups.lookup(self, where, keys, request)

    @property
    def batch_id(self) -> Awaitable[str]:
        """What this batch is called, to be awaited: see `Transaction.batch_id`."""
        return self._session.batch_id(self)

    async def commit(self) -> None:
        """Commit now: the asynchronous twin of `Transaction.commit`.

        Where the task is cancelled the commit goes on, and the next batch begins where it ended.

        Raises
        ------
        FencedError, WrongTypeError, DataLossError, NotDurableError, OutcomeUnknownError
            As for `Transaction.commit`.
        AuthenticationError, ResponseError, ValueError, TypeError, RuntimeError
            As for `Transaction.commit`.
        """
        await self._session.commit(self)
