"""Loops over a consumer, which hand its batches out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from redfloe._batch import AsyncBatch, Batch

if TYPE_CHECKING:
    from redfloe import _core


class HandsOut(ABC):
    """Hands out what is offered: a batch counts as handed out once its caller has it."""

    @abstractmethod
    def _offer(self) -> _core.Offer[Batch] | None:
        """Wait for the next batch; None at the end."""

    @abstractmethod
    async def _offer_async(self) -> _core.Offer[AsyncBatch] | None:
        """Wait for the next batch in an event loop; None at the end."""

    def __next__(self) -> Batch:
        offer = self._offer()
        if offer is None:
            raise StopIteration
        batch = offer.value
        offer.accepted = True  # no call follows, after which a signal's handler could raise
        return batch

    async def __anext__(self) -> AsyncBatch:
        offer = await self._offer_async()
        if offer is None:
            raise StopAsyncIteration
        batch = offer.value
        offer.accepted = True
        return batch


class Entered(HandsOut):
    """What can be entered, left, and entered again: each time is a session, the first number 1."""

    #: How many there have been.
    _sessions = 0


class Loop(HandsOut, Iterator[Batch], AsyncIterator[AsyncBatch]):
    """A loop that ends when its consumer is left, also if that is entered again then."""

    def __init__(self, consumer: Entered) -> None:
        self._consumer = consumer
        self._session = self._current()

    def _current(self) -> int:
        """Give the session's number, or that of the one to come where there has been none."""
        return max(self._consumer._sessions, 1)

    def _offer(self) -> _core.Offer[Batch] | None:
        return self._consumer._offer() if self._session == self._current() else None

    async def _offer_async(self) -> _core.Offer[AsyncBatch] | None:
        return await self._consumer._offer_async() if self._session == self._current() else None
