"""Names of workers, which no two workers have at the same time."""

from __future__ import annotations

import os
import weakref
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, lockf
from hashlib import blake2b
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, NoReturn

from redfloe.messages._settings import checked, expanded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redfloe._core import RedisConnection
    from redfloe.messages._plan import StreamPlan

#: What the workers of this process are: their process, server, stream, group and name. A child that
#: is forked inherits this, and is another process.
_IN_USE: dict[tuple[str | int, ...], WorkerName] = {}


class WorkerName:
    """The name of a worker, which is another one in each process where it says so.

    Two workers of one name in a group take each other's messages: each begins with what is pending
    for the name.
    """

    def __init__(self, template: str) -> None:
        self._template = checked(template, "consumer")
        # Its file is open in all processes that are forked from now on; a lock is one process's.
        self._fd: int | None = None
        if "{pid}" not in template:
            try:
                with TemporaryFile() as file:
                    self._fd = os.dup(file.fileno())
            except OSError:  # nothing can be written here: forked workers are not told apart
                return
            weakref.finalize(self, os.close, self._fd)

    def __str__(self) -> str:
        """Give the name in this process."""
        return expanded(self._template, "consumer")

    @contextmanager
    def held(self, server: RedisConnection, plans: Iterable[StreamPlan]) -> Iterator[None]:
        """Have the name until the end of the block, for each stream and group.

        Raises
        ------
        RuntimeError
            Another worker has it: of this process, or of one that was forked from the same one.
        """
        # One that commits stands by while another of its name works.
        plans = [plan for plan in plans if not plan.exactly_once]
        with ExitStack() as held:
            for plan in plans:
                where = repr(server), plan.stream, plan.group, str(self)
                held.enter_context(self._held_in_process(plan, (os.getpid(), *where)))
                if self._fd is not None:
                    held.enter_context(self._held_among_forks(plan, self._fd, _place(where)))
            yield

    @contextmanager
    def _held_in_process(self, plan: StreamPlan, mine: tuple[str | int, ...]) -> Iterator[None]:
        if _IN_USE.setdefault(mine, self) is not self:
            self._refuse("another app of this process", plan)
        try:
            yield
        finally:
            del _IN_USE[mine]

    @contextmanager
    def _held_among_forks(self, plan: StreamPlan, fd: int, place: int) -> Iterator[None]:
        try:
            lockf(fd, LOCK_EX | LOCK_NB, 1, place)
        except BlockingIOError:
            self._refuse("a process that was forked from the same one as this", plan)
        try:
            yield
        finally:
            lockf(fd, LOCK_UN, 1, place)

    def _refuse(self, who: str, plan: StreamPlan) -> NoReturn:
        msg = (
            f"{who} works on {plan.stream!r} as the consumer {str(self)!r}, and each would take "
            "the other's messages; give it a name of its own, or '{hostname}-{pid}', as it has "
            "without one"
        )
        raise RuntimeError(msg)


def _place(where: tuple[str, ...]) -> int:
    """Give the byte of the file that is locked for a worker; it need not be there."""
    return int.from_bytes(blake2b(repr(where).encode(), digest_size=7).digest())
