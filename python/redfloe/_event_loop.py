"""How coroutines wait for the core, whose threads never call Python: a socket wakes their loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary, ref

from redfloe import _core
from redfloe._log import log_events

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

T = TypeVar("T")


async def completed(task: _core.Task[T]) -> T:
    """Wait for a task of the core's, and give its result or raise its error.

    Where the wait is cancelled, or its event loop is dropped, so is the task.
    """
    try:
        await done(task)
    except BaseException:
        task.cancel()
        raise
    return task.result()


async def stopped(task: _core.Task[T]) -> T:
    """Wait for the end of a task that was stopped, which takes a second at most.

    Cancelling the wait another time changes nothing: its caller is being cancelled already.
    """
    import asyncio

    while True:
        try:
            await done(task)
        except asyncio.CancelledError:
            continue
        return task.result()


async def done(task: _core.Task[T], while_waiting: Callable[[], object] | None = None) -> None:
    """Wait until a task of the core's is done; call `while_waiting` about 20 times a second."""
    import asyncio

    loop = asyncio.get_running_loop()
    waiters = _waiters(loop)
    future: asyncio.Future[None] = loop.create_future()
    number = waiters.completions.watch(task)
    waiters.futures[number] = future
    try:
        if while_waiting is not None:
            while not (await asyncio.wait((future,), timeout=0.05))[0]:
                while_waiting()
        await future
    finally:
        waiters.futures.pop(number, None)


async def in_thread(act: Callable[[], T]) -> T:
    """Wait for what may block, such as a checkpoint store."""
    import asyncio

    return await asyncio.to_thread(act)


class _Waiters:
    """The futures of an event loop that wait for tasks of the core's."""

    def __init__(self) -> None:
        self.completions = _core.Completions()
        self.futures: dict[int, asyncio.Future[None]] = {}

    def wake(self) -> None:
        for number in self.completions.take():
            future = self.futures.get(number)
            if future is not None and not future.done():
                future.set_result(None)
        log_events()


# Only the loop owns its waiters, whose futures own the loop: so all of them may be collected.
_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[_Waiters]] = WeakKeyDictionary()


def _waiters(loop: asyncio.AbstractEventLoop) -> _Waiters:
    known = _of_loops.get(loop)
    waiters = None if known is None else known()
    if waiters is None:
        waiters = _Waiters()
        loop.add_reader(waiters.completions.fileno(), waiters.wake)
        _of_loops[loop] = ref(waiters)
    return waiters
