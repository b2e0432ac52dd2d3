"""Batches in hand: what becomes of each message, told to the server by few commands."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from redfloe._schema import as_text
from redfloe._words import readable
from redfloe.messages._message import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redfloe._batch import AsyncBatch
    from redfloe.messages._codecs import Rows
    from redfloe.messages._health import Record
    from redfloe.messages._plan import Call
    from redfloe.messages._transaction import Transaction


class Delivered:
    """A batch, whose messages are settled one by one, from any thread."""

    #: What the messages are committed with, where that is so.
    tx: Transaction | None = None
    #: Told what becomes of messages, where an app drains.
    record: Record | None = None

    def __init__(self, batch: AsyncBatch, rows: Rows, limits: Limits) -> None:
        self.batch = batch
        self.rows = rows
        self.limits = limits
        self._counts: list[int] | None = None
        self._number = len(batch)
        #: Whether each row is settled.
        self._settled = bytearray(self._number)
        #: How many handlers a row still waits for, where there may be several at a time.
        self._waiting: dict[int, int] = {}
        self._lock = threading.Lock()
        # Rows of which something is to be told: entries of several shards may have the same ID.
        # Items are appended and taken by single steps of the interpreter.
        self._acks: list[int] = []
        #: Whether all of them are acknowledged together, for which none need be named.
        self._is_done = False
        self._nacks: list[tuple[int, timedelta | None]] = []
        self._fails: list[tuple[int, str]] = []
        self._extends: list[None] = []
        #: When others were kept from it last, and how many rows were settled then.
        self._kept_at, self._settled_then = time.monotonic(), 0

    def __repr__(self) -> str:
        return repr(self.batch)

    def __len__(self) -> int:
        return self._number

    @property
    def ids(self) -> list[str]:
        """The entry IDs, made as text where one is asked for."""
        return self.batch._ids

    def stream(self, row: int) -> str:
        """Give the key of a row's stream; of a sharded one that of its shard."""
        request = self.batch._source.request
        many = request["many"]
        key = request["stream"] if many is None else many["streams"][self.batch._streams[row]]
        return readable(key)

    @property
    def counts(self) -> list[int]:
        """How often each message has been delivered."""
        if self._counts is None:
            self._counts = self.batch._counts or [1] * self._number
        return self._counts

    @property
    def in_hand(self) -> int:
        """How many rows are not settled, or the server does not know of yet."""
        acked = self._number if self._is_done else len(self._acks)
        return self._settled.count(0) + acked + len(self._nacks) + len(self._fails)

    @property
    def is_complete(self) -> bool:
        """Whether all rows are settled, and the server knows."""
        return not (self.in_hand or self._extends)

    def wait_for(self, row: int) -> None:
        """Have a row wait for one handler more."""
        self._waiting[row] = self._waiting.get(row, 1) + 1

    def is_settled(self, row: int) -> bool:
        """Whether it is known what becomes of a row."""
        return bool(self._settled[row])

    def done(self, row: int) -> bool:
        """Say that a handler is done with a row, which is acknowledged if it was the last.

        This and the others say whether they have decided what becomes of it: the first word counts.
        """
        if self._waiting:
            with self._lock:
                left = self._waiting.get(row, 1) - 1
                self._waiting[row] = left
            if left > 0:
                return False
        return self.ack(row)

    def all_done(self, rows: Sequence[int]) -> Sequence[int]:
        """Say that a handler is done with these rows; give those that are acknowledged by it."""
        if self._waiting or len(rows) < self._number or any(self._settled):
            return [row for row in rows if self.done(row)]
        with self._lock:
            self._settled[:] = bytes([1]) * self._number
            self._is_done = True
        return rows

    def skip(self, row: int) -> None:
        """Be done with a row that is for no handler."""
        self.ack(row)

    def ack(self, row: int) -> bool:
        """Acknowledge a row."""
        if not self._settle(row):
            return False
        self._acks.append(row)
        return True

    def nack(self, row: int, delay: timedelta | None) -> bool:
        """Give a row back."""
        if not self._settle(row):
            return False
        self._nacks.append((row, delay))
        return True

    def fail(self, row: int, reason: str) -> bool:
        """Move a row to the dead-letter stream."""
        if not self._settle(row):
            return False
        self._fails.append((row, sendable(reason)))
        return True

    def extend(self) -> None:
        """Keep all rows that are not settled from others."""
        self._extends.append(None)

    def keep_while_it_advances(self) -> None:
        """Keep others from what waits for its turn, as long as something is settled meanwhile.

        A worker's lease is for a handler that takes its time, not for a queue of them.
        """
        lease = self.limits.lease
        if lease is None or time.monotonic() < self._kept_at + lease / 2:
            return
        settled = self._settled.count(1)
        if self._settled_then < settled < self._number:
            self._kept_at, self._settled_then = time.monotonic(), settled
            self.extend()

    def give_back(self) -> None:
        """Give back all that is not settled, to anybody at once."""
        if 0 not in self._settled:
            return
        for row, settled in enumerate(self._settled):
            if not settled:
                self.nack(row, timedelta(0))

    def _settle(self, row: int) -> bool:
        with self._lock:
            if self._settled[row]:
                return False
            self._settled[row] = 1
            return True

    async def tell(self) -> None:
        """Tell the server what has become of rows; what it could not be told is kept."""
        if self._is_done:
            await self.batch.ack()
            self._is_done = False
        if acks := self._acks[:]:
            await self.batch.ack(None if len(acks) == self._number else self._chosen(acks))
            del self._acks[: len(acks)]
        if fails := self._fails[:]:
            for reason, rows in _grouped(fails).items():
                await self.batch.fail(self._chosen(rows), reason)
            del self._fails[: len(fails)]
        if nacks := self._nacks[:]:
            for delay, rows in _grouped(nacks).items():
                await self.batch.nack(self._chosen(rows), delay_ms=delay)
            del self._nacks[: len(nacks)]
        if extends := len(self._extends):
            await self.batch.extend()
            del self._extends[:extends]

    def _chosen(self, rows: list[int]) -> Any:
        return self.batch._entries(rows)


class Limits:
    """What a handler may ask for."""

    def __init__(
        self, *, has_dead_letter: bool, longest_delay: timedelta | None, lease: float | None
    ) -> None:
        self.has_dead_letter = has_dead_letter
        self.longest_delay = longest_delay
        #: For how many seconds others are kept from what is in hand.
        self.lease = lease


class Item:
    """A message in hand, and the calls that it is for."""

    __slots__ = ("_message", "batch", "calls", "event", "key_hash", "row", "type")

    def __init__(
        self,
        batch: Delivered,
        row: int,
        type: str | None,  # noqa: A002 - as of a Message
        event: Any,
        calls: tuple[Call, ...],
    ) -> None:
        self.batch = batch
        self.row = row
        self.type = type
        self.event = event
        self.calls = calls
        #: Of what it shares with others that are handled in order.
        self.key_hash: int | None = None
        self._message: Message | None = None

    @property
    def message(self) -> Message:
        """The message as handlers get it: one object for all of them."""
        if self._message is None:
            self._message = Message._of(self)
        return self._message

    @property
    def tx(self) -> Transaction | None:
        """What the message is committed with."""
        return self.batch.tx

    @property
    def id(self) -> str:
        """The entry ID."""
        return self.batch.ids[self.row]

    @property
    def stream(self) -> str:
        """The key of its stream, or of its shard."""
        return self.batch.stream(self.row)

    @property
    def ids(self) -> list[str]:
        """That, for logs."""
        return [self.id]

    @property
    def delivery_count(self) -> int:
        """How often it has been delivered."""
        return self.batch.counts[self.row]

    @property
    def is_settled(self) -> bool:
        """Whether it is known what becomes of it."""
        return self.batch.is_settled(self.row)

    def done(self) -> None:
        """Say that all its calls have returned."""
        if self.batch.done(self.row) and self.batch.record is not None:
            self.batch.record.handled(self)

    def ack(self) -> None:
        """As `Message.ack` says."""
        if self.batch.ack(self.row) and self.batch.record is not None:
            self.batch.record.handled(self)

    def nack(self, delay: timedelta | None) -> None:
        """As `Message.nack` says."""
        longest = self.batch.limits.longest_delay
        if delay is not None and (
            delay < timedelta(0) or (longest is not None and delay > longest)
        ):
            most = "" if longest is None else f" and at most {longest.total_seconds():g} s"
            msg = f"delay must not be negative{most}: then others take the message anyway"
            raise ValueError(msg)
        if self.batch.nack(self.row, delay) and self.batch.record is not None:
            self.batch.record.given_back(self, delay)

    def fail(self, reason: object) -> None:
        """As `Message.fail` says."""
        if not self.batch.limits.has_dead_letter:
            msg = "the app has no stream for this message: pass dead_letter"
            raise ValueError(msg)
        reason = as_text(reason, "reason")
        if self.batch.fail(self.row, reason) and self.batch.record is not None:
            self.batch.record.failed(self, reason)

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return repr(self.message)


def sendable(reason: str) -> str:
    """Give a reason without lone surrogates: what it quotes may have some."""
    return reason.encode(errors="backslashreplace").decode()


def _grouped(pairs: list[tuple[int, Any]]) -> dict[Any, list[int]]:
    """Give the rows of each value."""
    rows: dict[Any, list[int]] = {}
    for row, value in pairs:
        rows.setdefault(value, []).append(row)
    return rows
