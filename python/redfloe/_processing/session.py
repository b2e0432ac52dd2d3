"""A processor from the time that it is entered until it is left: its state, tables and transaction.

All of it is written once, as coroutines. In an event loop they are awaited; in a loop without one
they are run by `without_waiting`, because `at_once` never suspends them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from redfloe._beside import take_out
from redfloe._consuming.handling import without_waiting
from redfloe._errors import FencedError, NotDurableError, WrongTypeError
from redfloe._event_loop import completed
from redfloe._frame import of_batch
from redfloe._processing.lookups import Lookups
from redfloe._processing.sinks import Sinks
from redfloe._processing.state import ProcessorState
from redfloe._processing.table import Table, TableRequest, table_request
from redfloe._processing.windows.window import PREFIX, Windows
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    import polars as pl

    from redfloe import _core
    from redfloe._checks import Milliseconds
    from redfloe._processing.base_transaction import BaseTransaction
    from redfloe._processing.lanes import Lanes
    from redfloe._processing.sharding import Shard
    from redfloe._processing.sinks import Sink
    from redfloe._processing.windows.definition import Declared
    from redfloe._processing.windows.window import Window
    from redfloe._rows import Source
    from redfloe._schema import SchemaLike

    T = TypeVar("T", bound=BaseTransaction)
else:
    T = TypeVar("T")

V = TypeVar("V")

_ENDED = "this transaction has ended, by its commit or without one; use the one in hand"


class Waits(Protocol):
    """How operations of the core are waited for."""

    async def __call__(self, operation: _core.Operation[V], /) -> V:
        """Give what it comes to."""


async def at_once(operation: _core.Operation[V]) -> V:
    """Wait without an event loop."""
    return operation.wait()


async def in_event_loop(operation: _core.Operation[V]) -> V:
    """Wait in an event loop."""
    return await completed(operation.start())


@dataclass(frozen=True)
class _Declared:
    """A table, and what it was declared by."""

    columns: tuple[object, ...]
    name: bytes
    text: str
    table: Table


class Session(Generic[T]):
    """A processor from the time that it is entered until it is left."""

    def __init__(
        self,
        core: _core.Processor,
        wait: Waits,
        make: Callable[[Session[T], _core.Transaction], T],
        *,
        source: Source,
        known: dict[str, Any],
        has_dead_letter: bool,
        sinks: list[Sink],
        is_of_group: bool,
        look: Callable[[], Coroutine[Any, Any, Lanes[T] | None]] | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.core = core
        #: Finds out whether the stream is a sharded one, which then has these lanes.
        self._look = look
        self.lanes: Lanes[T] | None = None
        self._has_looked = False
        self._stopped = False
        #: Which of them this is the session of.
        self.shard = shard
        self.is_of_group = is_of_group
        self.has_dead_letter = has_dead_letter
        #: The transaction in hand.
        self.current: T | None = None
        self.wait = wait
        #: Whether the server has said that the lane is another's.
        self.is_fenced = False
        self._make = make
        #: Where all rows come from.
        self.source = source
        self._known = known
        #: The lane's epoch in which state and tables were loaded; None where they have to be.
        self._epoch: int | None = None
        self._state = ProcessorState()
        self._tables: dict[bytes, _Declared] = {}
        self._bound: list[tuple[object, str | None]] = []
        self._in_use = Lock()
        #: The page that the latest batch is a part of, and the frame of all its rows.
        self._page: tuple[_core.RecordBatch, tuple[pl.DataFrame, Source]] | None = None
        self.sinks = Sinks(self, sinks)
        self.windows = Windows(self)
        self.lookups = Lookups(self)

    @property
    def is_async(self) -> bool:
        """Whether there is an event loop."""
        return self.wait is in_event_loop

    def resolve(self, doing: Coroutine[Any, Any, V]) -> Awaitable[V] | V:
        """Give what is to be awaited, or where there is no event loop what it comes to."""
        return doing if self.is_async else without_waiting(doing)

    # What transactions ask for

    def check(self, transaction: T) -> None:
        """Refuse a transaction that is not the one in hand."""
        if self.current is not transaction:
            raise RuntimeError(_ENDED)

    def rows_of(
        self, core: _core.Transaction, rows: _core.RecordBatch
    ) -> tuple[pl.DataFrame, Source]:
        """Give a batch's rows as a frame: of a small batch, a part of that of its page."""
        part = core.page()
        if part is None:
            self._page = None
            return self._taken(rows)
        page, start = part
        if self._page is None or not page.is_same(self._page[0]):
            self._page = page, self._taken(page)
        frame, source = self._page[1]
        return frame.slice(start, len(rows)), source.part(slice(start, start + len(rows)))

    def _taken(self, rows: _core.RecordBatch) -> tuple[pl.DataFrame, Source]:
        frame, beside = take_out(of_batch(rows), self.source.request)
        return frame, self.source if beside is None else replace(self.source, beside=beside)

    def state_of(self, transaction: T) -> ProcessorState:
        """Give the state to the transaction in hand."""
        if self.is_of_group:
            refuse_of_group("there is no state")
        self.check(transaction)
        return self._state

    async def table(
        self,
        transaction: T,
        name: str | bytes,
        key: str | Sequence[str],
        schema: SchemaLike,
        event_time: str | None,
        expire_after: Milliseconds | None,
    ) -> Table:
        """Give a table, loaded once."""
        if self.is_of_group:
            refuse_of_group("there are no tables")
        self.check(transaction)
        if self.shard is not None:
            self.shard.check_key([key] if isinstance(key, str) else [*key], "a table's key")
        columns = (key, schema, event_time, expire_after)
        known = name if isinstance(name, bytes) else str(name).encode()
        if known.startswith(PREFIX):
            msg = (
                f"the tables whose names begin with {PREFIX.decode()!r} are those of windows: call "
                f"the table {readable(known)!r} otherwise (`read_table` reads open windows)"
            )
            raise ValueError(msg)
        declared = self._tables.get(known)
        if declared is not None and declared.columns == columns:
            return declared.table
        request = table_request(
            key, schema, known=self._known, event_time=event_time, expire_after=expire_after
        )
        if declared is None:
            declared = await self._load_table(transaction, known, request, columns)
        if declared.table.request != request:
            msg = (
                f"the table {declared.text!r} was taken with other columns before: "
                f"{declared.table.schema}"
            )
            raise ValueError(msg)
        return declared.table

    async def table_of_window(self, transaction: T, name: bytes, request: TableRequest) -> Table:
        """Give the table of a window's open windows, loaded once."""
        declared = self._tables.get(name)
        if declared is None or declared.columns != (request,):
            # Another definition than before has no open windows to begin with.
            self._tables.pop(name, None)
            declared = await self._load_table(transaction, name, request, (request,))
        return declared.table

    async def window(
        self, transaction: T, name: str | bytes, declared: Declared, rows: Any
    ) -> Window:
        """Have a window take a transaction's rows."""
        if self.is_of_group:
            refuse_of_group("there are no windows")
        self.check(transaction)
        if self.shard is not None:
            self.shard.check_key(declared.by, "a window's by")
        return await self.windows.window(transaction, name, declared, rows)

    async def _load_table(
        self, transaction: T, name: bytes, request: TableRequest, columns: tuple[object, ...]
    ) -> _Declared:
        text = readable(name)
        newest = self._state.newest_ms(text)
        table = Table(await self._of_lane(self.core.load_table(name, request, newest)), request)
        self.check(transaction)
        # Another task of this transaction may have been quicker, and have changed its table.
        return self._tables.setdefault(name, _Declared(columns, name, text, table))

    async def batch_id(self, transaction: T) -> str:
        """Fix where the batch ends, and give it a name."""
        if self.is_of_group:
            refuse_of_group("no batch comes again as it was, by which a batch_id would be known")
        self.check(transaction)
        after, last = transaction._core.range
        if transaction._core.turn is not None:
            msg = (
                "a transaction without entries, in which windows close on a quiet stream, does not "
                "come again as it was, and has no batch_id: publish what it closes, and have that "
                "stream processed"
            )
            raise ValueError(msg)
        transaction._has_id = True
        try:
            await self._of_lane(self.core.plan(transaction._core))
        except ValueError as error:
            transaction._cannot_be_part = error
            raise
        return f"{after}_{last}" if self.shard is None else f"{self.shard.number}:{after}_{last}"

    async def commit(self, transaction: T, *, settles: bool = False) -> bool:
        """Commit; say whether it is in, rather than to be found out by acquiring the lane anew."""
        self.check(transaction)
        await self.sinks.prepare()
        if self.shard is not None:
            for name, by in transaction._sharded_outputs:
                await self.shard.claim(name, by)
        self.check(transaction)
        for declared in self._tables.values():
            declared.table.core.expire()
            self._state.keep_newest(declared.text, declared.table.newest_ms())
        changes = self._state.changes()
        tables = [(declared.name, declared.table.core) for declared in self._tables.values()]
        committing = self.core.commit(transaction._core, tables, changes, settles)
        self._end()
        # Whatever comes of it, none of these files is deleted from here on: the commit may be in.
        staged = self.sinks.take()
        try:
            is_in = await self._of_lane(committing)
        except NotDurableError:
            self._saved()
            await self.sinks.publish(staged)
            raise
        except BaseException:
            self._forget()
            raise
        if is_in:
            self._saved()
            await self.sinks.publish(staged)
        else:
            self._forget()
        return is_in

    async def _of_lane(self, operation: _core.Operation[V]) -> V:
        """Wait for what is refused where the lane is another's by now."""
        try:
            return await self.wait(operation)
        except FencedError:
            self.is_fenced = True
            raise

    @property
    def saved(self) -> ProcessorState:
        """The state, also where no transaction is in hand."""
        return self._state

    # What loops ask for

    async def next(self, *, opens: bool = True) -> T | None:
        """Commit what is in hand, and give the next batch, or None; it `opens` it, too."""
        if not self._in_use.acquire(blocking=False):
            msg = "another thread or task waits for this processor's next batch already"
            raise RuntimeError(msg)
        try:
            if not (self._has_looked or self.is_of_group):
                await self._find_lanes()
                self._has_looked = True
            if self.lanes is not None:
                return await self.lanes.next(opens=opens)
            if self.current is not None:
                await self.commit(self.current, settles=True)
            if self._epoch is not None and self.sinks.is_settled:
                core = self.core.at_hand(self._epoch)
                if core is not None:
                    return self._made(core, opens=opens)
            if not self.sinks.is_settled:
                if not await self.wait(self.core.hold()):
                    return None
                if not await self.sinks.settle(until_stopped=True):
                    return None
            while True:
                try:
                    state, core = await self.wait(self.asking())
                except WrongTypeError:
                    # It may have become one since; the lanes of a group are refused.
                    lanes = await self._find_lanes()
                    if lanes is None:
                        raise
                    await self.wait(self.core.finish(500))
                    return await lanes.next(opens=opens)
                if state is None:
                    break
                self._load(*state)
                if not await self.sinks.settle(until_stopped=True):
                    return None
            if core is None:
                return None
            return self._made(core, opens=opens)
        finally:
            self._in_use.release()

    async def _find_lanes(self) -> Lanes[T] | None:
        """Have the lanes of the stream, if it is a sharded one."""
        if self._look is not None:
            self.lanes = await self._look()
        if self.lanes is not None and self._stopped:  # while nobody had the lanes
            self.stop()
        return self.lanes

    def asking(self) -> _core.Operation[tuple[Any, _core.Transaction | None]]:
        """Give what waits for the next batch of this lane, or for the lane."""
        return self.core.next(self._epoch, self.windows.alarms())

    def come(self, state: Any, core: _core.Transaction | None, *, opens: bool) -> T | None:
        """Take what that has come to; give the batch, if it is one."""
        if state is not None:
            self._load(*state)
        return None if core is None else self._made(core, opens=opens)

    def stop(self) -> None:
        """End the loop before its next batch."""
        self._stopped = True
        self.core.stop()
        if self.lanes is not None:
            self.lanes.stop()

    def _made(self, core: _core.Transaction, *, opens: bool) -> T:
        transaction = self._make(self, core)
        return self.open(transaction) if opens else transaction

    def open(self, transaction: T) -> T:
        """Have a transaction in hand."""
        self.current = transaction
        self._state.is_open = True
        for declared in self._tables.values():
            declared.table.is_open = True
        return transaction

    def put_down(self) -> None:
        """Have none in hand, and all as it was saved."""
        self._end()
        self._rollback()
        self.sinks.discard()

    async def finish(self, *, success: bool) -> None:
        """Commit what is in hand, unless there was an exception; leave the lane."""
        if self.lanes is not None:
            await self.lanes.finish(success=success)
            return
        try:
            if success and self.current is not None:
                await self.commit(self.current)
            else:
                self.put_down()
        finally:
            if self.current is not None:  # which cannot be committed
                self.put_down()
            await self.wait(self.core.finish(1_000 if success else 500))

    def bind(self, model: object, name: str | None) -> None:
        """Have the state keep an object."""
        if self._epoch is not None:
            self._state.bind(model, name)
        self._bound.append((model, name))

    def _load(self, epoch: int, fields: list[tuple[bytes, bytes]]) -> None:
        """Have the state as it was saved; tables are loaded when they are asked for."""
        self._rollback()
        self._tables.clear()
        self.windows.forget()
        state = ProcessorState(fields)
        for model, name in self._bound:
            state.bind(model, name)
        self._state, self._epoch, self.is_fenced = state, epoch, False

    def _end(self) -> None:
        self.current = None
        self.windows.end()
        self._state.is_open = False
        for declared in self._tables.values():
            declared.table.is_open = False

    def _saved(self) -> None:
        self._state.commit()
        for declared in self._tables.values():
            declared.table.core.commit()

    def _rollback(self) -> None:
        self._state.rollback()
        for declared in self._tables.values():
            declared.table.core.rollback()

    def _forget(self) -> None:
        """Know no more what was saved."""
        self._rollback()
        self._epoch = None


def refuse_of_group(what: str) -> NoReturn:
    """Refuse what needs that no other worker processes the stream at the same time."""
    msg = (
        f"with a group {what}: other workers of the group process other entries at the same time, "
        "and each would overwrite what the others have written; leave out group= (one processor "
        "works at a time then, others stand by), or publish, and have a second processor without a "
        "group keep the state of what was published"
    )
    raise ValueError(msg)


def check_bound(model: object, name: str | None, bound: list[tuple[object, str | None]]) -> None:
    """Refuse what the state cannot keep under that name, beside those that are bound already."""
    state = ProcessorState()
    for one, its_name in bound:
        state.bind(one, its_name)
    state.bind(model, name)


__all__ = [
    "Session",
    "Waits",
    "at_once",
    "check_bound",
    "in_event_loop",
    "refuse_of_group",
    "without_waiting",
]
