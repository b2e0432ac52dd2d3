"""How far a worker has come, in whatever store keeps its checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from redfloe import _core
from redfloe._arguments import refuse_async
from redfloe._consuming.checkpoint import CheckpointStore
from redfloe._errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redfloe._arguments import Request


class Position:
    """The last entry that is done with, by the store; and the one that a batch in hand ends with.

    Without a store all does nothing.
    """

    def __init__(self, store: object, name: str, *, follows: bool) -> None:
        """Move by `done`, where `follows` says so; else by `save` alone."""
        self._store = _checked(store)
        self._name = name
        self._follows = follows and store is not None
        self.offered: str | None = None
        self.in_hand: str | None = None

    @property
    def moves(self) -> bool:
        """Whether `done` has something to save, which may block."""
        return self.in_hand is not None

    def resumed(self, request: Request) -> Request:
        """Give the request, from the checkpoint on where there is one."""
        request = request.copy()
        checkpoint = None if self._store is None else self._store.load(self._name)
        _refuse_awaitable(checkpoint, "load")
        if request["group"] is None:
            request["resume_after"] = checkpoint
        else:
            request["group"] = request["group"].copy()
            request["group"]["done_up_to"] = checkpoint
        if checkpoint is not None:
            try:
                _core.empty_batch(request)  # all but the checkpoint has been checked before
            except (ValueError, TypeError) as error:
                msg = f"the checkpoint {self._name!r} is {checkpoint!r}, no entry ID"
                raise CheckpointError(msg) from error
        return request

    def offer(self, rows: _core.RecordBatch) -> None:
        """Take note of a batch that is being handed out; then `in_hand` becomes `offered`."""
        self.offered = rows.ids()[-1] if self._follows else None

    def put_down(self) -> None:
        """Forget the batch in hand, which is not done with."""
        self.in_hand = None

    def done(self) -> None:
        """Save that the batch in hand is done with, if there is one."""
        entry_id, self.in_hand = self.in_hand, None
        if entry_id is not None:
            self.save(entry_id)

    def save(self, entry_id: str) -> None:
        """Save a checkpoint."""
        if self._store is not None:
            save: Callable[[str, str], object] = self._store.save
            _refuse_awaitable(save(self._name, entry_id), "save")


def _checked(store: object) -> CheckpointStore | None:
    """Refuse what is no store, and one whose methods nobody would await."""
    if store is None:
        return None
    if not isinstance(store, CheckpointStore):
        msg = "checkpoint_store must have load(name) and save(name, entry_id)"
        raise TypeError(msg)
    instead = "it may block, because an event loop calls it in a thread"
    refuse_async(store.load, "checkpoint_store.load", instead)
    refuse_async(store.save, "checkpoint_store.save", instead)
    return store


def _refuse_awaitable(result: object, method: str) -> None:
    if inspect.isawaitable(result):
        if isinstance(result, Coroutine):
            result.close()  # which was never awaited, and would warn of it
        msg = f"checkpoint_store.{method} must not be async: nobody awaits what it returned"
        raise TypeError(msg)
