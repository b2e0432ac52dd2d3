"""The lanes of a sharded stream's processor: one session each, shared with others of its name.

Nobody coordinates. Each process says how many lanes it has, hears the same of the others, and gives
some up or acquires some that nobody has. Who has a lane says its lease, and whose commit counts its
epoch: what two of them decide at once may collide, and costs a moment.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from redfloe import _core
from redfloe._errors import FencedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redfloe._processing.base_transaction import BaseTransaction
    from redfloe._processing.session import Session, Waits

    T = TypeVar("T", bound=BaseTransaction)
else:
    T = TypeVar("T")

#: How often a process that waits says that it is there, in the time of a lease.
_BEATS = 6
#: Others are not to wait for that, however long a lease is.
_LONGEST_PAUSE = 1_000
#: How long the end may take, after an exception and without one.
_PATIENCE = {False: 0.5, True: 1.0}


class Lanes(Generic[T]):
    """The sessions of the lanes that this process has, as one."""

    def __init__(
        self,
        keys: list[bytes],
        make: Callable[[bytes, _core.Runtime], Session[T]],
        member: Callable[[bytes, _core.Runtime], _core.LaneMember],
        wait: Waits,
        *,
        lease_ms: int,
        drains: bool,
    ) -> None:
        self._keys = keys
        self._runtime = _core.Runtime()
        self._make = make
        self._selection = _core.Selection(self._runtime)
        # By a name of its own: of two threads of one process each has its lanes.
        self._member = member(os.urandom(8).hex().encode(), self._runtime)
        self._wait = wait
        self._pause = min(max(lease_ms // _BEATS, 1), _LONGEST_PAUSE)
        self._lease = 1.2 * lease_ms / 1000
        self._drains = drains
        self._sessions: dict[int, Session[T]] = {}
        #: What was done in lanes that others have taken.
        self._past: list[_core.ProcessorStats] = []
        self._held: set[int] = set()
        #: Those in which there was nothing left.
        self._done: set[int] = set()
        self._due = 0.0
        #: When to end, as nothing is left but lanes that others have.
        self._ends_at: float | None = None
        self._in_hand: Session[T] | None = None
        # No Event: a signal's handler that sets it may find its lock taken by this thread.
        self._stopped = False
        self._process = os.getpid()

    def stats(self) -> list[_core.ProcessorStats]:
        """Give what was done in each lane that this process has had."""
        return [*self._past, *(session.core.stats for session in [*self._sessions.values()])]

    def stop(self) -> None:
        """End the loop before its next batch."""
        self._stopped = True
        self._member.stop()
        for session in [*self._sessions.values()]:
            session.core.stop()

    def _is_stopped(self) -> bool:
        return self._stopped

    async def next(self, *, opens: bool) -> T | None:
        """Commit what is in hand, and give the next batch of any lane, or None at the end."""
        self._check_process()
        await self._commit()
        while not self._is_stopped():
            if time.monotonic() >= self._due:
                await self._share()
            for number in self._held - self._done - {*self._selection.numbers()}:
                session = self._sessions[number]
                self._selection.add(number, session.asking())
            if not self._selection.numbers() and self._drains and not await self._take_all():
                return None
            first = await self._wait(self._selection.first(_milliseconds_to(self._due)))
            if first is None:
                continue
            number, come, error = first
            session = self._sessions[number]
            if isinstance(error, FencedError):
                self._lose(number)
            elif error is not None:
                raise error
            elif (made := session.come(*come, opens=opens)) is not None:
                self._in_hand = session
                return made
            elif come == (None, None):
                self._done.add(number)
        return None

    def _check_process(self) -> None:
        """Refuse to work in a forked child, to which each lane would seem to be lost."""
        if os.getpid() != self._process:
            msg = (
                "this processor was started before the process forked, and belongs to the parent; "
                "make one in the child"
            )
            raise FencedError(msg)

    async def _commit(self) -> None:
        session, self._in_hand = self._in_hand, None
        if session is None or session.current is None:
            return
        try:
            await session.commit(session.current, settles=True)
        except FencedError:
            # The batch is another's by now, as its lane is.
            self._lose(next(n for n, own in self._sessions.items() if own is session))

    async def _share(self) -> None:
        """Say how many lanes there are, and acquire some or give some up."""
        change = await self._wait(self._member.beat(len(self._held)))
        for number in [*self._held][: -change if change < 0 else 0]:
            await self._give_up(number)
        has_changed = change < 0 or (change > 0 and await self._take(change) > 0)
        # Others are told soon of what has changed.
        self._due = time.monotonic() + self._pause / 1000 / (4 if has_changed else 1)

    async def _take(self, most: int) -> int:
        """Acquire lanes that nobody has; say how many."""
        taken = 0
        for number in range(len(self._keys)):
            if taken == most or self._is_stopped():
                break
            if number in self._held or number in self._done:
                continue
            session = self._sessions.get(number)
            if session is None:
                session = self._sessions[number] = self._make(self._keys[number], self._runtime)
                if self._is_stopped():  # by another thread, which has not seen this one
                    session.core.stop()
            if await self._wait(session.core.try_hold()):
                self._held.add(number)
                taken += 1
        return taken

    async def _take_all(self) -> bool:
        """Before the end: acquire what is left; say whether there may be something to do."""
        left = len(self._keys) - len(self._done)
        if await self._take(left):
            self._ends_at = None
            return True
        # What others have is theirs; those that are gone leave their lanes when the leases expire.
        now = time.monotonic()
        self._ends_at = self._ends_at or now + self._lease
        return left > 0 and now < self._ends_at

    async def _give_up(self, number: int) -> None:
        self._selection.remove(number)
        self._held.discard(number)
        self._done.discard(number)
        await self._wait(self._sessions[number].core.release())

    def _lose(self, number: int) -> None:
        """Have a lane no more, which another has acquired."""
        session = self._sessions.pop(number)
        session.put_down()
        self._past.append(session.core.stats)
        self._held.discard(number)

    async def finish(self, *, success: bool) -> None:
        """Commit what is in hand, unless there was an exception; leave the lanes."""
        if success:
            self._check_process()
        if os.getpid() != self._process:
            return
        try:
            if success:
                await self._commit()
        finally:
            self.stop()
            for number in self._selection.numbers():
                self._selection.remove(number)
            # All of them together take no longer than one: the leases expire by themselves.
            ends = time.monotonic() + _PATIENCE[success]
            for session in self._sessions.values():
                session.put_down()
                await self._wait(session.core.finish(_milliseconds_to(ends)))
            await self._wait(self._member.leave(_milliseconds_to(ends)))


def _milliseconds_to(at: float) -> int:
    return max(int((at - time.monotonic()) * 1000), 1)
