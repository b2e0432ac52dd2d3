"""What an app says of itself: how it is, and what a drain has done."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redfloe.messages._message import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redfloe._consuming.stats import ConsumerStats
    from redfloe._processing.stats import ProcessorStats
    from redfloe.messages._frames import Part
    from redfloe.messages._outgoing import Outgoing


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
        Those whose handlers returned, in that order.
    published : list of Message
        Those that the app's producers have published meanwhile.
    failed : list of (Message, str)
        Those that went to the dead-letter stream, and why.
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
        self._lock = threading.Lock()

    def handled(self, item: Any) -> None:
        """Note what has been handled."""
        with self._lock:
            self.drained.handled.extend(_messages(item))

    def failed(self, item: Any, reason: str) -> None:
        """Note what goes to the dead-letter stream."""
        with self._lock:
            self.drained.failed.extend((message, reason) for message in _messages(item))

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
