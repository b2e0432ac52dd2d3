"""What an app says of itself: how it is, and what a drain has done."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redfloe.messages._message import Message

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from redfloe._consuming.stats import ConsumerStats
    from redfloe._processing.stats import ProcessorStats
    from redfloe.messages._frames import Part
    from redfloe.messages._outgoing import Outgoing


#: The first pause before what a handler gives back comes again, and the longest, in seconds.
_PAUSES = (0.1, 30.0)


@dataclass(frozen=True)
class Health:
    """How an app is.

    Attributes
    ----------
    alive : bool
        Whether it works, or could: False once it has ended by an exception.
    ready : bool
        Whether it reads all its streams.
    in_hand : int
        How many messages have been delivered to it, and are not settled.
    error : str or None
        The exception that ended it.
    streams : mapping of str to ConsumerStats
        What has been done of each stream.
    processors : mapping of str to ProcessorStats
        The same of those whose handlers are `exactly_once`.
    """

    alive: bool
    ready: bool
    in_hand: int
    error: str | None
    streams: Mapping[str, ConsumerStats]
    processors: Mapping[str, ProcessorStats] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Drained:
    """What `App.drain` has done.

    Attributes
    ----------
    handled : list of Message
        Those that were acknowledged as their handlers returned, or said so, in that order; in each
        group once.
    published : list of Message
        Those that the app's producers have published meanwhile, and those of transactions that
        are committed (`Transaction.publish`).
    failed : list of (Message, str)
        Those that handlers, or what they got, have brought to the dead-letter stream, and why.
        Undecodable entries, and those delivered too often, never come that far: the stream has them
        too.
    """

    handled: list[Message] = field(default_factory=list)
    published: list[Message] = field(default_factory=list)
    failed: list[tuple[Message, str]] = field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"<Drained: {len(self.handled)} handled, {len(self.published)} published, "
            f"{len(self.failed)} failed>"
        )


class Record:
    """Writes down what a drain does; from any thread."""

    def __init__(self) -> None:
        self.drained = Drained()
        self._given_back = 0
        #: When what was given back is to come again, by stream and ID.
        self._due: dict[tuple[str | None, str | None], float] = {}
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """How much has happened."""
        with self._lock:
            drained = self.drained
            ended = len(drained.handled) + len(drained.failed)
            return ended + len(drained.published) + self._given_back

    def handled(self, item: Any) -> None:
        """Note what has been handled."""
        with self._lock:
            for message in _messages(item):
                self.drained.handled.append(message)
                self._due.pop((message.stream, message.id), None)

    def failed(self, item: Any, reason: str) -> None:
        """Note what goes to the dead-letter stream."""
        with self._lock:
            for message in _messages(item):
                self.drained.failed.append((message, reason))
                self._due.pop((message.stream, message.id), None)

    def given_back(self, item: Any, delay: timedelta | None) -> None:
        """Note what is to come again after a delay, or after one that grows, as the core's does."""
        with self._lock:
            for message in _messages(item):
                seconds = _PAUSES[0] * 2 ** min(message.delivery_count - 1, 20)
                seconds = min(seconds, _PAUSES[1]) if delay is None else delay.total_seconds()
                self._given_back += 1
                self._due[message.stream, message.id] = time.monotonic() + seconds

    def pause(self) -> float:
        """Say for how many seconds nothing comes again that was given back, and forget that."""
        with self._lock:
            first = min(self._due.values(), default=0.0)
            self._due.clear()
        return max(0.0, first - time.monotonic())

    def published(self, outgoing: Outgoing, entry_id: str | None) -> None:
        """Note a message that is in."""
        del entry_id
        with self._lock:
            self.drained.published.append(Message(*outgoing[1:]))


def _messages(item: Any) -> list[Message]:
    if hasattr(item, "message"):
        return [item.message]
    part: Part = item
    from redfloe.messages._delivery import Item

    types = part.batch.rows.types
    return [Item(part.batch, row, types[row], None, ()).message for row in part.rows]
