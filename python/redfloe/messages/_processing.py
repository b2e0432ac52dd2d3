"""Handlers that are called with the messages of a processor's transactions."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from redfloe import _calling
from redfloe._processing.transaction import AsyncTransaction
from redfloe.messages._calls import WrongHandlerError, check_result
from redfloe.messages._decode import decode
from redfloe.messages._delivery import Delivered, Item, sendable
from redfloe.messages._ending import is_cancelled
from redfloe.messages._errors import MisfitError, NotDoneError, UnknownTypeError
from redfloe.messages._frames import Part
from redfloe.messages._handling import foreign, raised_by
from redfloe.messages._transaction import CannotCommitError, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redfloe._consuming.retry import ExceptionPolicy
    from redfloe._processing.base_transaction import BaseTransaction
    from redfloe.messages._codecs import Rows
    from redfloe.messages._decode import Policy
    from redfloe.messages._delivery import Limits
    from redfloe.messages._health import Record
    from redfloe.messages._outgoing import Outgoing
    from redfloe.messages._plan import Call, StreamPlan
    from redfloe.messages._threads import Threads
    from redfloe.messages._transaction import Outputs

#: What no further attempt mends, and no dead letter.
RAISED: ExceptionPolicy = {
    WrongHandlerError: "raise",
    CannotCommitError: "raise",
    MisfitError: "raise",
    UnknownTypeError: "raise",
}


class Processing:
    """Calls the handlers of a plan with the messages of transactions."""

    def __init__(
        self, plan: StreamPlan, policy: Policy, limits: Limits, outputs: Outputs, threads: Threads
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._limits = limits
        self._outputs = outputs
        self._threads = threads
        #: What handlers were called with last; None where it could not be made of the batch.
        self.last: InTransaction | None = None
        #: Whether the worker has ended, below a handler that has swallowed its cancel.
        self.has_left = False

    @property
    def handler(self) -> Callable[[Any], Any]:
        """What a `StreamProcessor` runs: async where a handler is, or a middleware."""
        if self._plan.in_threads:
            return _calling.observe_calls(partial(self._handle))

        async def handle(tx: AsyncTransaction) -> None:
            await self._await(tx)

        handle.__qualname__ = ", ".join(self._plan.async_names) or "of the middleware"
        return _calling.observe_calls(handle)

    def open(self, tx: BaseTransaction, loop: asyncio.AbstractEventLoop | None) -> InTransaction:
        """Give a transaction's messages."""
        plan, self.last = self._plan, None
        batch = InTransaction(tx, plan.rows(tx.frame), self._limits, self._outputs, loop)
        items, problem = decode(plan, batch, self._policy)
        if problem is not None:
            raise problem  # before a handler is called for nothing
        batch.items = items
        self.last = batch
        return batch

    def _handle(self, tx: BaseTransaction) -> Any:
        return self._in_thread(tx) if isinstance(tx, AsyncTransaction) else self._call(tx)

    def _call(
        self,
        tx: BaseTransaction,
        loop: asyncio.AbstractEventLoop | None = None,
        left: threading.Event | None = None,
    ) -> None:
        for call, item in _calls(self.open(tx, loop)):
            if left is not None and left.is_set():
                return
            try:
                result = _calling.call_in_thread(call, item)
                if result is not None:
                    check_result(call.name, result)
            except asyncio.CancelledError as error:
                raise raised_by(error) from error
            except Exception as error:
                _note(error, call, item)
                raise
            _look(result, call, item)

    async def _in_thread(self, tx: AsyncTransaction) -> None:
        left = threading.Event()
        try:
            await self._threads.run(self._call, tx, asyncio.get_running_loop(), left)
        finally:  # where it was cancelled, the messages are others' from now on
            left.set()

    async def _await(self, tx: AsyncTransaction) -> None:
        for call, item in _calls(self.open(tx, asyncio.get_running_loop())):
            try:
                result = await _calling.call_and_await(call, item)
            except asyncio.CancelledError as error:
                raise foreign(error) from error
            except Exception as error:
                _note(error, call, item)
                raise
            if self.has_left or is_cancelled():
                raise asyncio.CancelledError
            _look(result, call, item)


def _calls(batch: InTransaction) -> Iterator[tuple[Call, Item | Part]]:
    """Give the calls of a batch, but for those of messages that a handler has put aside."""
    for item in batch.items:
        for call in item.calls:
            if not item.is_settled:
                yield call, item


def _note(error: Exception, call: Call, item: Item | Part) -> None:
    with suppress(Exception):  # it is the handler's, and may take no notes
        error.add_note(f"while handling {item!r} by {call.name}")


def _look(result: object, call: Call, item: Item | Part) -> None:
    if result is False:
        msg = f"{call.name} returned False: {item!r} is not done"
        raise NotDoneError(msg)


class InTransaction(Delivered):
    """A batch whose messages are done with, all at once, by its commit."""

    def __init__(
        self,
        batch: BaseTransaction,
        rows: Rows,
        limits: Limits,
        outputs: Outputs,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        given: Any = batch  # which has rows and IDs as other batches do
        super().__init__(given, rows, limits)
        self._transaction = batch
        #: What its handlers are called with.
        self.items: list[Item | Part] = []
        #: Why rows go to the dead-letter stream.
        self.reasons: dict[int, str] = {}
        #: What the commit publishes.
        self.published: list[Outgoing] = []
        self.tx = Transaction(batch, outputs, self.published, loop)

    def skip(self, row: int) -> None:
        """Do nothing for a row, which the commit takes with it."""
        self._settle(row)

    def fail(self, row: int, reason: str) -> bool:
        """Have the commit move a row to the dead-letter stream."""
        if not self._settle(row):
            return False
        self._transaction.fail(self.ids[row], sendable(reason))
        self.reasons[row] = reason
        return True

    def put_aside(self, reason: str) -> None:
        """Know that the commit moves all its rows to the dead-letter stream, and does no more."""
        self.published.clear()
        for row in range(len(self.ids)):
            self._settle(row)
            self.reasons[row] = reason

    def ack(self, row: int) -> NoReturn:
        """Refuse what the commit does."""
        del row
        _refuse("is acknowledged by the commit of its transaction: return from the handler")

    def nack(self, row: int, delay: Any) -> NoReturn:
        """Refuse what would keep a message out of the commit."""
        del row, delay
        _refuse("cannot be left out of the commit of its batch: raise an exception")

    def extend(self) -> None:
        """Refuse what is of no use."""
        _refuse("is kept from others until the commit of its transaction")

    def write_down(self, record: Record) -> None:
        """Say what has become of its messages, once they are committed."""
        items = {item.row: item for item in self.items if isinstance(item, Item)}
        of_parts = [row for item in self.items if isinstance(item, Part) for row in item.rows]
        for row in (*of_parts, *self.reasons):
            if row not in items:
                items[row] = Item(self, row, self.rows.types[row], None, ())
        for row in sorted(items.keys() - self.reasons.keys()):
            record.handled(items[row])
        for row, reason in self.reasons.items():
            record.failed(items[row], reason)
        for outgoing in self.published:
            record.published(outgoing, None)


def _refuse(what: str) -> NoReturn:
    msg = f"a message of a handler with a transaction {what}"
    raise CannotCommitError(msg)
