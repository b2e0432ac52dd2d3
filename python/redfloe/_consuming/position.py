"""How far a worker has come in its streams, in whatever store keeps its checkpoints.

The core's ledgers know the positions; here they are only loaded and saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from threading import RLock
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from redfloe import _core
from redfloe._consuming.checkpoint import (
    CheckpointStore,
    LoopCheckpoints,
    LoopStoppedError,
    RedisCheckpointStore,
)
from redfloe._errors import CheckpointError
from redfloe._event_loop import completed, in_thread
from redfloe._functions import refuse_async

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from redfloe._arguments import Request
    from redfloe._consuming.names import CheckpointNames
    from redfloe._core import RedisConnection
    from redfloe._rows import Entries

#: What was loaded of some names.
Loaded: TypeAlias = list[str | None]
#: Positions, by the numbers and the keys of their streams.
Moved: TypeAlias = list[tuple[int, bytes, str]]
#: The checkpoint that says that a pattern's streams have been followed: not an entry's ID.
_BEGUN = "0-0"


class Position:
    """The checkpoints of a worker. Without a store all does nothing."""

    def __init__(self, store: object, names: CheckpointNames, *, follows: bool) -> None:
        """Move when a batch is done with, where `follows` says so; else by `acknowledged`."""
        self._store = _checked(store)
        #: For what the loop itself loads and saves.
        self._of_loop = self._store
        self._names = names
        self._follows = follows
        self._progress: _core.Progress | None = None
        #: Begins at what is newest then, which a store has to remember, and has done so.
        self._begins_now = False
        self._is_begun = False
        # Threads that acknowledge at once do not save an older position after a newer one.
        self._saving = RLock()
        self._saving_async: asyncio.Lock | None = None

    def follow(self, reader: str | RedisConnection, request: Request) -> None:
        """Serve a loop of that request, which begins."""
        self._saving_async = None  # it may be of another event loop
        if type(self._store) is RedisCheckpointStore:  # a subclass may do more
            self._of_loop = LoopCheckpoints(self._store, reader, request)

    def over_shards(self, request: Request) -> None:
        """Serve the shards of the stream from now on."""
        self._names.over_shards(request)
        self._progress = None

    def stop(self) -> None:
        """Have the loop wait for its store no longer than a second; from any thread."""
        self._begins_now = False  # perhaps without the checkpoints, which it must not replace
        if isinstance(self._of_loop, LoopCheckpoints):
            self._of_loop.stop()

    # At the start

    def resumed(self, reader: str | RedisConnection, request: Request) -> Request:
        """Give the request, from the checkpoints on where there are some."""
        if self._store is None:
            return request
        found = _finding(reader, request)
        keys = _listed(request) if found is None else found.wait()
        return self._resuming(request, keys, self._load(self._all_names(request, keys)))

    async def resumed_async(self, reader: str | RedisConnection, request: Request) -> Request:
        """Give the same in an event loop, which is not held up."""
        if self._store is None:
            return request
        found = _finding(reader, request)
        keys = _listed(request) if found is None else await completed(found.start())
        names, store = self._all_names(request, keys), self._of_loop
        if _sends_together(store):
            return self._resuming(request, keys, await store.load_many_async(names))
        return await in_thread(lambda: self._resuming(request, keys, self._load(names)))

    def _all_names(self, request: Request, keys: list[bytes]) -> list[str]:
        """Give the names of the checkpoints, and after them of what says that there was a run."""
        names = [self._names.of(key) for key in keys]
        self._begins_now = request["group"] is None and request["start_id"] == "$"
        return [*names, self._names.begun] if self._marks(request) else names

    def _marks(self, request: Request) -> bool:
        """Tell whether streams that no run has had are older than the first, or newer."""
        many = request["many"]
        return self._begins_now and many is not None and many["pattern"] is not None

    def _load(self, names: list[str]) -> Loaded:
        store = self._of_loop
        if store is None:
            return []
        if _sends_together(store):
            return store.load_many(names)
        return [self._load_one(store, name) for name in names]

    @staticmethod
    def _load_one(store: CheckpointStore, name: str) -> str | None:
        checkpoint = store.load(name)
        _refuse_awaitable(checkpoint, "load")
        return checkpoint

    def _resuming(self, request: Request, keys: list[bytes], loaded: Loaded) -> Request:
        request = request.copy()
        after = {
            key: checkpoint
            for key, checkpoint in zip(keys, loaded, strict=False)
            if checkpoint is not None
        }
        request["resume_after"] = after
        request["has_begun"] = self._marks(request) and loaded[-1] is not None
        self._is_begun = request["has_begun"] or not self._marks(request)
        try:
            _core.empty_batch(request)  # all but the checkpoints has been checked before
        except (ValueError, TypeError) as error:
            for key, checkpoint in after.items():
                self._check(request, key, checkpoint, error)
            raise
        return request

    def _check(self, request: Request, key: bytes, checkpoint: str, error: Exception) -> None:
        one = request.copy()
        one["resume_after"] = {key: checkpoint}
        try:
            _core.empty_batch(one)
        except (ValueError, TypeError):
            msg = f"the checkpoint {self._names.of(key)!r} is {checkpoint!r}, no entry ID"
            raise CheckpointError(msg) from error

    def begin(self, reader: _core.BatchReader | _core.AsyncBatchReader) -> None:
        """Follow what becomes of the reader's batches."""
        if self._store is not None:
            self._progress = reader.progress(self._follows)

    def start(self, reader: _core.BatchReader) -> None:
        """Save where the reading begins, where a later run could not know."""
        if self._progress is not None and self._begins_now:
            reader.start()
            self.save(in_loop=True)
            self._begins_now = False

    async def start_async(self, reader: _core.AsyncBatchReader) -> None:
        """Save the same in an event loop, which is not held up."""
        if self._progress is not None and self._begins_now:
            await completed(reader.start())
            await self.save_async(in_loop=True)
            self._begins_now = False

    # In the loop

    def done(self, *, in_loop: bool = False) -> None:
        """Save that the batch in hand is done with, if there is one."""
        if self.is_due():
            self.save(in_loop=in_loop)

    def is_due(self) -> bool:
        """Record that the batch in hand is done with; say whether there is something to save."""
        if self._progress is None:
            return False
        self._progress.done()
        return bool(self._progress.moved())

    def put_down(self) -> None:
        """Record that the batch in hand is not done with, and will not be."""
        if self._progress is not None:
            self._progress.leave()

    def acknowledged(self, batch: Entries, done: Entries) -> None:
        """Record that these rows of a batch are done with; a stream's last may represent them."""
        if self._progress is not None:
            self._progress.acknowledged(batch, done)

    def _to_save(self, progress: _core.Progress) -> tuple[Moved, dict[str, str]]:
        """Give the positions that moved, and what is to be saved under which names."""
        moved = progress.moved()
        checkpoints = {self._names.of(key): entry_id for _, key, entry_id in moved}
        if not self._is_begun:
            checkpoints[self._names.begun] = _BEGUN  # the last: the others are there then
        return moved, checkpoints

    def save(self, *, in_loop: bool = False) -> None:
        """Save the positions that moved, which may block: for the loop, or as any call."""
        store = self._of_loop if in_loop else self._store
        if store is None or self._progress is None:
            return
        with self._saving:
            moved, checkpoints = self._to_save(self._progress)
            if not checkpoints:
                return
            try:
                if _sends_together(store):
                    store.save_many(checkpoints)
                else:
                    _save_each(store, checkpoints)
            except LoopStoppedError:
                return  # the end of the loop saves them
            self._progress.saved(moved)
            self._is_begun = True

    async def save_async(self, *, in_loop: bool = False) -> None:
        """Save the same in an event loop, which is not held up."""
        store = self._of_loop if in_loop else self._store
        if store is None or self._progress is None:
            return
        if not _sends_together(store):
            await in_thread(self.save)
            return
        import asyncio

        # Tasks that acknowledge at once do not save an older position after a newer one.
        self._saving_async = self._saving_async or asyncio.Lock()
        async with self._saving_async:
            moved, checkpoints = self._to_save(self._progress)
            if not checkpoints:
                return
            try:
                await store.save_many_async(checkpoints)
            except LoopStoppedError:
                return  # the end of the loop saves them
            self._progress.saved(moved)
            self._is_begun = True


def _listed(request: Request) -> list[bytes]:
    """Give the keys of the streams that a request names."""
    many = request["many"]
    return [request["stream"]] if many is None else many["streams"]


def _finding(
    reader: str | RedisConnection, request: Request
) -> _core.Operation[list[bytes]] | None:
    """Give what finds the streams that there are, where a request has a pattern."""
    many = request["many"]
    if many is None or many["pattern"] is None:
        return None
    return _core.find_streams(reader, many["pattern"][0], must_exist=False)


def _sends_together(store: object) -> TypeGuard[RedisCheckpointStore]:
    """Tell whether a store takes many checkpoints in few round trips: a subclass may do more."""
    return type(store) in (RedisCheckpointStore, LoopCheckpoints)


def _save_each(store: CheckpointStore, checkpoints: dict[str, str]) -> None:
    save: Callable[[str, str], object] = store.save
    for name, entry_id in checkpoints.items():
        _refuse_awaitable(save(name, entry_id), "save")


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
