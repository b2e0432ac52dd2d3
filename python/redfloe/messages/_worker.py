"""A stream's worker: reads batches, has handlers called, and tells the server what is done."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redfloe._errors import DecodeError, NoGroupError, RedfloeError, RedisConnectionError
from redfloe.messages._decode import decode
from redfloe.messages._delivery import Delivered, Limits
from redfloe.messages._ending import LAST, LAST_TELL, abandon
from redfloe.messages._errors import misfit_of
from redfloe.messages._handling import Handling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from redfloe._batch import AsyncBatch
    from redfloe._consuming.consumer import StreamConsumer
    from redfloe.messages._decode import Policy
    from redfloe.messages._delivery import Item
    from redfloe.messages._frames import Part
    from redfloe.messages._plan import StreamPlan
    from redfloe.messages._threads import Threads

#: How long what is done waits for others to be told together, in seconds.
_TELL_EVERY = 0.1
#: How many messages may wait for others of their key while the next batch is asked for.
_MOST_QUEUED = 1_000
#: How often one who waits for handlers to return looks whether it was stopped, in seconds.
_LOOK = 0.05


class StreamWorker:
    """Works on one stream, in an event loop.

    Lanes, as many as there may be handlers at a time, take messages from a queue that the reader
    fills by batches; it asks for the next batch when the queue is empty. What becomes of messages
    is told to the server by a task of its own, while the lanes go on.
    """

    def __init__(
        self,
        plan: StreamPlan,
        consumer: StreamConsumer,
        *,
        concurrency: int,
        policy: Policy,
        limits: Limits,
        grace: float,
        threads: Threads,
        record: Any,
        on_ready: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.source = self.consumer = consumer
        self._policy = policy
        self._limits = limits
        self._grace = grace
        self._threads = threads
        #: Messages of one key have one queue; others have one for all lanes.
        queues = concurrency if plan.has_keys else 1
        self._queues: list[deque[Item | Part]] = [deque() for _ in range(queues)]
        self._lanes = concurrency
        self._busy = 0
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()
        self._quiet = asyncio.Event()
        self._to_tell = asyncio.Event()
        self._in_hand: list[Delivered] = []
        self.is_ready = False
        self._on_ready = on_ready
        self._record = record
        self._handling = Handling(consumer, limits, threads)

    @property
    def in_hand(self) -> int:
        """How many messages are in hand."""
        return sum(batch.in_hand for batch in self._in_hand)

    def begin_no_more(self) -> None:
        """Have no further handler called; from any thread, before `stop`."""
        self._handling.stopping = True

    def stop(self) -> None:
        """Finish what handlers are at, give back the rest, and end; in the event loop."""
        self._handling.stop()
        self.consumer.stop()
        self._taken.set()
        self._filled.set()

    async def run(self) -> None:
        """Work until the consumer ends; raise what a handler or the server raises."""
        lane = self._lane_of_threads if self.plan.in_threads else self._lane
        tasks: list[asyncio.Task[None]] = []
        async with self.consumer:
            try:
                tasks += [
                    asyncio.create_task(lane(self._queues[number % len(self._queues)]))
                    for number in range(self._lanes)
                ]
                telling = asyncio.create_task(self._tell_all())
                reading = asyncio.create_task(self._read())
                tasks += [telling, reading]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await self._finish(tasks)
            except BaseException:
                with suppress(RedfloeError):  # the exception in flight says more
                    await self._leave(tasks)
                raise
            await self._leave(tasks)

    async def _read(self) -> None:
        await self.consumer._join()
        self.is_ready = True
        self._on_ready()
        batches = aiter(self.consumer)
        while (batch := await self._next(batches)) is not None:
            if self.plan.is_typed and not (self._busy or self._queues[0]):
                # Its frame goes to a lane at once, and the server need not wait for that.
                self.consumer._ask_ahead()
            await self._hand_out(batch)

    async def _next(self, batches: AsyncIterator[AsyncBatch]) -> AsyncBatch | None:
        """Wait for the next batch; what is raised after it is not the reader's, but a codec's."""
        try:
            return await anext(batches, None)
        except DecodeError as error:
            raise misfit_of(error, self.plan.stream) from error

    async def _hand_out(self, batch: AsyncBatch) -> None:
        """Queue a batch's messages, and wait until there is room for more."""
        rows = self.plan.rows(batch.frame)
        # It is told what has become of its rows however long an outage lasts.
        delivered = Delivered(batch._patiently(), rows, self._limits)
        delivered.record = self._record
        items, problem = decode(self.plan, delivered, self._policy)
        self._in_hand.append(delivered)
        if self.plan.has_keys:
            self._queue_by_key(items)
        else:
            self._queues[0].extend(items)
        self._to_tell.set()
        self._filled.set()
        while not (self._has_room() or self._handling.stopping):
            self._taken.clear()
            await self._taken.wait()
        if problem is not None:
            raise problem

    def _has_room(self) -> bool:
        """Whether a lane has nothing to do, for want of messages."""
        if len(self._queues) == 1:
            return not self._queues[0]
        # One key that takes its time does not hold up the others.
        return not all(self._queues) and sum(map(len, self._queues)) < _MOST_QUEUED

    def _queue_by_key(self, items: list[Item | Part]) -> None:
        count = len(self._queues)
        for item in items:
            shortest = min(range(count), key=lambda queue: len(self._queues[queue]))
            key = item.key_hash
            self._queues[shortest if key is None else key % count].append(item)

    # Lanes

    async def _lane(self, queue: deque[Item | Part]) -> None:
        handling = self._handling
        while True:
            if not await self._wait_for_items(queue):
                return
            try:
                while queue and not handling.stopping:
                    item = queue.popleft()
                    if not queue:
                        self._taken.set()
                    await handling.handle(item)
            finally:
                self._rest()

    async def _lane_of_threads(self, queue: deque[Item | Part]) -> None:
        while True:
            if not await self._wait_for_items(queue):
                return
            try:
                loop = asyncio.get_running_loop()
                await self._threads.run(self._work_in_thread, queue, loop)
            finally:
                self._rest()

    def _work_in_thread(self, queue: deque[Item | Part], loop: asyncio.AbstractEventLoop) -> None:
        handling = self._handling
        while not handling.stopping:
            try:
                item = queue.popleft()
            except IndexError:
                return
            if not queue:
                loop.call_soon_threadsafe(self._taken.set)
            handling.handle_in_thread(item)

    async def _wait_for_items(self, queue: deque[Item | Part]) -> bool:
        """Wait until there are some; False once the worker has left, whose cancel was swallowed."""
        while not queue or self._handling.stopping:
            if self._handling.has_left:
                return False
            self._filled.clear()
            await self._filled.wait()
        self._busy += 1
        self._quiet.clear()
        return True

    def _rest(self) -> None:
        self._busy -= 1
        self._taken.set()
        self._to_tell.set()
        if not self._busy:
            self._quiet.set()

    # What the server is told

    async def _tell_all(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TELL_EVERY if self._in_hand else None):
                    await self._to_tell.wait()
            self._to_tell.clear()
            await self._tell()

    async def _tell(self) -> None:
        """Tell what has become of rows, as patiently as the reader goes on through an outage."""
        for delivered in [*self._in_hand]:
            delivered.keep_while_it_advances()
            try:
                await delivered.tell()
            except NoGroupError:
                self._in_hand.remove(delivered)  # the reader raises it, or makes the group again
                continue
            if delivered.is_complete:
                self._in_hand.remove(delivered)

    # The end

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        """Let handlers that run return, for a while where it was stopped; raise what a task did."""
        if _error_of(tasks) is not None:
            self.stop()
        stopped_at: float | None = None
        while self._busy or (any(self._queues) and not self._handling.stopping):
            if self._handling.stopping:
                stopped_at = stopped_at or time.monotonic()
                if time.monotonic() >= stopped_at + self._grace:
                    break
            await asyncio.sleep(0)  # a lane may be about to begin
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._quiet.wait()
        if (error := _error_of(tasks)) is not None:
            raise error

    async def _leave(self, tasks: list[asyncio.Task[None]]) -> None:
        """End all tasks, give back what is not done, and tell the server once more."""
        self._handling.stop()
        self._handling.has_left = True
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST)
            _error_of(tasks)  # which says that somebody has looked
            abandon(tasks, self.consumer._where)
        for delivered in self._in_hand:
            delivered.give_back()
        # What cannot be told is still pending, and comes again.
        with suppress(RedisConnectionError, TimeoutError):
            async with asyncio.timeout(LAST_TELL):
                await self._tell()


def _error_of(tasks: list[asyncio.Task[None]]) -> BaseException | None:
    """Give the first exception that ended one of the tasks."""
    ended = [task for task in tasks if task.done() and not task.cancelled()]
    return next((error for task in ended if (error := task.exception()) is not None), None)
