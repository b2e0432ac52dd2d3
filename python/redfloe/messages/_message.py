"""A message: an event with its type, its payload and its metadata."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redfloe.messages._delivery import Item


class Message:
    """A message: published as it is, or as a handler gets it beside its event.

    Parameters
    ----------
    type : str, optional
        What the message is, such as ``"user.created"``: its entry's field ``_type``.
    payload : mapping or model, default {}
        What it says: an entry's fields, by name; or an event, whose fields they are.
    metadata : mapping, optional
        What is said about it, as JSON: its entry's field ``_metadata``.

    Attributes
    ----------
    event : object
        The payload as the handler's model; without a model the payload itself.
    id : str or None
        The entry ID; None of a message that no handler was given.
    stream : str or None
        The stream's key; of a sharded stream that of the shard, where `id` is the entry's.
    delivery_count : int
        How often the message has been delivered to its group, this time included.

    Examples
    --------
    >>> from redfloe.messages import Message
    >>> message = Message("user.created", {"user_id": 123}, {"via": "web"})
    >>> message.type, message.payload["user_id"], message.metadata
    ('user.created', 123, {'via': 'web'})
    """

    __slots__ = ("_item", "_metadata", "_payload", "event", "type")

    def __init__(
        self,
        type: str | None = None,  # noqa: A002 - it is what everybody calls it
        payload: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.type = type
        self._payload: Any = {} if payload is None else payload
        self._metadata: Any = {} if metadata is None else dict(metadata)
        self.event: Any = self._payload
        self._item: Item | None = None

    @classmethod
    def _of(cls, item: Item) -> Message:
        """Make the message of an entry, whose payload and metadata are looked at when asked for."""
        message = cls.__new__(cls)
        message.type, message.event = item.type, item.event
        message._payload = message._metadata = None
        message._item = item
        return message

    @property
    def payload(self) -> Any:
        """What the message says, as its codec reads it: the entry's fields, texts by name."""
        if self._payload is None and self._item is not None:
            self._payload = self._item.batch.rows.payload(self._item.row)
        return self._payload

    @property
    def metadata(self) -> dict[str, Any]:
        """What is said about the message."""
        if self._metadata is None and self._item is not None:
            self._metadata = self._item.batch.rows.metadata(self._item.row)
        found: dict[str, Any] = self._metadata
        return found

    @property
    def id(self) -> str | None:
        return None if self._item is None else self._item.id

    @property
    def stream(self) -> str | None:
        return None if self._item is None else self._item.stream

    @property
    def delivery_count(self) -> int:
        return 0 if self._item is None else self._item.delivery_count

    @property
    def time(self) -> datetime | None:
        """When the message was added, by the server's clock, in UTC; None if no handler has it."""
        if self.id is None:
            return None
        milliseconds = int(self.id.partition("-")[0])
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)

    def ack(self) -> None:
        """Say that the message is done with, before its handler returns.

        It is acknowledged soon, together with others, and whatever the handler raises then is
        logged and changes nothing. A handler that returns acknowledges its message.

        Raises
        ------
        RuntimeError
            No handler was given this message.
        ValueError
            The message is committed with others: see `Transaction`.
        """
        self._delivered().ack()

    def nack(self, *, delay: float | timedelta | None = None) -> None:
        """Say that the message is not done: it is delivered again after a while.

        To this worker or another, as `Batch.nack` says. A handler that returns False does so too.

        Parameters
        ----------
        delay : float or timedelta, optional
            How many seconds to wait, at most those of the app's `reclaim_min_idle`. By default the
            wait doubles with each delivery, from a tenth of a second to 30.

        Raises
        ------
        RuntimeError
            No handler was given this message.
        ValueError
            The message is committed with others: see `Transaction`.
        """
        if delay is not None and not isinstance(delay, timedelta):
            delay = timedelta(seconds=delay)
        self._delivered().nack(delay)

    def fail(self, reason: str) -> None:
        """Say that nobody can handle the message: it goes to the dead-letter stream.

        Parameters
        ----------
        reason : str
            Why: the field ``_dead_reason`` of the dead letter.

        Raises
        ------
        ValueError
            The app has no `dead_letter`.
        RuntimeError
            No handler was given this message.
        """
        self._delivered().fail(reason)

    def extend(self) -> None:
        """Keep the message, and others of its batch, from other workers for `max_processing` more.

        Up to that they are kept without it, while the handler runs.

        Raises
        ------
        RuntimeError
            No handler was given this message.
        ValueError
            The message is committed with others: see `Transaction`.
        """
        self._delivered().batch.extend()

    def _delivered(self) -> Item:
        if self._item is None:
            msg = "only a message that an app gave to a handler can be acknowledged or given back"
            raise RuntimeError(msg)
        return self._item

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return (self.type, self.payload, self.metadata, self.id) == (
            other.type,
            other.payload,
            other.metadata,
            other.id,
        )

    __hash__ = None  # type: ignore[assignment]  # as of what is compared by its contents

    def __repr__(self) -> str:
        where = "" if self.id is None else f" {self.stream} {self.id}"
        return f"<Message {self.type!r}{where}>"
