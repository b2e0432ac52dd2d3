"""How far a worker has come, in whatever store keeps its checkpoint.

The core's ledger knows the position; here it is only loaded and saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from threading import RLock
from typing import TYPE_CHECKING

from redfloe import _core
from redfloe._consuming.checkpoint import (
    CheckpointStore,
    LoopCheckpoints,
    LoopStoppedError,
    RedisCheckpointStore,
)
from redfloe._errors import CheckpointError
from redfloe._event_loop import in_thread
from redfloe._functions import refuse_async

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from redfloe._arguments import Request
    from redfloe._core import RedisConnection


class Position:
    """The checkpoint of a worker. Without a store all does nothing."""

    def __init__(self, store: object, name: str, *, follows: bool) -> None:
        """Move when a batch is done with, where `follows` says so; else by `acknowledged`."""
        self._store = _checked(store)
        #: For what the loop itself loads and saves.
        self._of_loop = self._store
        self._name = name
        self._follows = follows
        self._progress: _core.Progress | None = None
        self._saved: str | None = None
        # Threads that acknowledge at once do not save an older position after a newer one.
        self._saving = RLock()
        self._saving_async: asyncio.Lock | None = None

    def follow(self, reader: str | RedisConnection, request: Request) -> None:
        """Serve a loop of that request, which begins."""
        self._saving_async = None  # it may be of another event loop
        if type(self._store) is RedisCheckpointStore:  # a subclass may do more
            self._of_loop = LoopCheckpoints(self._store, reader, request)

    def stop(self) -> None:
        """Have the loop wait for its store no longer than a second; from any thread."""
        if isinstance(self._of_loop, LoopCheckpoints):
            self._of_loop.stop()

    def resumed(self, request: Request) -> Request:
        """Give the request, from the checkpoint on where there is one."""
        checkpoint = None if self._of_loop is None else self._of_loop.load(self._name)
        _refuse_awaitable(checkpoint, "load")
        return self._resuming(request, checkpoint)

    async def resumed_async(self, request: Request) -> Request:
        """Give the same in an event loop, which is not held up."""
        if isinstance(self._of_loop, RedisCheckpointStore):
            return self._resuming(request, await self._of_loop.load_async(self._name))
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

    def done(self, *, in_loop: bool = False) -> None:
        """Save that the batch in hand is done with, if there is one."""
        if self.is_due():
            self.save(in_loop=in_loop)

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

    def save(self, *, in_loop: bool = False) -> None:
        """Save the position where it has moved, which may block: for the loop, or as any call."""
        store = self._of_loop if in_loop else self._store
        if store is None or self._progress is None:
            return
        with self._saving:
            position = self._progress.position
            if position is None or position == self._saved:
                return
            save: Callable[[str, str], object] = store.save
            try:
                _refuse_awaitable(save(self._name, position), "save")
            except LoopStoppedError:
                return  # the end of the loop saves it
            self._saved = position

    async def save_async(self, *, in_loop: bool = False) -> None:
        """Save the same in an event loop, which is not held up."""
        store = self._of_loop if in_loop else self._store
        if store is None or self._progress is None:
            return
        if not isinstance(store, RedisCheckpointStore):
            await in_thread(self.save)
            return
        import asyncio

        # Tasks that acknowledge at once do not save an older position after a newer one.
        self._saving_async = self._saving_async or asyncio.Lock()
        async with self._saving_async:
            position = self._progress.position
            if position is None or position == self._saved:
                return
            try:
                await store.save_async(self._name, position)
            except LoopStoppedError:
                return  # the end of the loop saves it
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
