"""How far a worker has come, in whatever store keeps its checkpoint.

The core's ledger knows the position; here it is only loaded and saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from threading import RLock
from typing import TYPE_CHECKING

from redfloe import _core
from redfloe._consuming.checkpoint import CheckpointStore, RedisCheckpointStore
from redfloe._errors import CheckpointError
from redfloe._event_loop import in_thread
from redfloe._functions import refuse_async

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from redfloe._arguments import Request


class Position:
    """The checkpoint of a worker. Without a store all does nothing."""

    def __init__(self, store: object, name: str, *, follows: bool) -> None:
        """Move when a batch is done with, where `follows` says so; else by `acknowledged`."""
        self._store = _checked(store)
        self._name = name
        self._follows = follows
        self._progress: _core.Progress | None = None
        self._saved: str | None = None
        # Threads that acknowledge at once do not save an older position after a newer one.
        self._saving = RLock()
        self._saving_async: asyncio.Lock | None = None

    def resumed(self, request: Request) -> Request:
        """Give the request, from the checkpoint on where there is one."""
        checkpoint = None if self._store is None else self._store.load(self._name)
        _refuse_awaitable(checkpoint, "load")
        return self._resuming(request, checkpoint)

    async def resumed_async(self, request: Request) -> Request:
        """Give the same in an event loop, which is not held up."""
        if isinstance(self._store, RedisCheckpointStore):
            return self._resuming(request, await self._store.load_async(self._name))
        return await in_thread(lambda: self.resumed(request))

    def _resuming(self, request: Request, checkpoint: str | None) -> Request:
        request = request.copy()
        self._saved = checkpoint
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

    def begin(self, reader: _core.BatchReader | _core.AsyncBatchReader) -> None:
        """Follow what becomes of the reader's batches."""
        if self._store is not None:
            self._progress = reader.progress(self._follows)

    def done(self) -> None:
        """Save that the batch in hand is done with, if there is one."""
        if self.is_due():
            self.save()

    def is_due(self) -> bool:
        """Record that the batch in hand is done with; say whether there is something to save."""
        if self._progress is None:
            return False
        self._progress.done()
        return self._progress.position not in (None, self._saved)

    def put_down(self) -> None:
        """Record that the batch in hand is not done with, and will not be."""
        if self._progress is not None:
            self._progress.leave()

    def acknowledged(self, batch: list[str], ids: list[str]) -> None:
        """Record that these rows of a batch are done with; the last may represent them all."""
        if self._progress is not None:
            self._progress.acknowledged(batch, ids)

    def save(self) -> None:
        """Save the position where it has moved, which may block."""
        if self._store is None or self._progress is None:
            return
        with self._saving:
            position = self._progress.position
            if position is None or position == self._saved:
                return
            save: Callable[[str, str], object] = self._store.save
            _refuse_awaitable(save(self._name, position), "save")
            self._saved = position

    async def save_async(self) -> None:
        """Save the same in an event loop, which is not held up."""
        if self._store is None or self._progress is None:
            return
        if not isinstance(self._store, RedisCheckpointStore):
            await in_thread(self.save)
            return
        import asyncio

        # Tasks that acknowledge at once do not save an older position after a newer one.
        self._saving_async = self._saving_async or asyncio.Lock()
        async with self._saving_async:
            position = self._progress.position
            if position is None or position == self._saved:
                return
            await self._store.save_async(self._name, position)
            self._saved = position


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
