"""What makes the lanes of a processor, where its stream turns out to be a sharded one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redfloe import _core
from redfloe._errors import AuthenticationError, RedfloeError
from redfloe._processing.lanes import Lanes
from redfloe._processing.session import Session
from redfloe._reading.shards import shards_of
from redfloe._rows import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from weakref import WeakMethod

    from redfloe._arguments import Request
    from redfloe._core import RedisConnection
    from redfloe._processing.arguments import ProcessorArguments
    from redfloe._processing.session import Waits

#: How long a process counts at most without another word, in milliseconds.
_LONGEST = 30_000


class Shard:
    """Which shard a session is of, and what holds for all of them."""

    def __init__(
        self,
        url: RedisConnection,
        number: int,
        shards: _core.Shards,
        wait: Waits,
        claimed: set[tuple[bytes, str]],
    ) -> None:
        self.number = number
        self.shards = shards
        self._url = url
        self._wait = wait
        #: The names of sharded outputs that are there, and the fields by which they are divided.
        self._claimed = claimed

    def check_key(self, names: Sequence[str], what: str) -> None:
        """Refuse what would be kept in several lanes, and be whole in none."""
        by = self.shards.by
        if by not in names:
            msg = (
                f"{what} must have {by!r}, by which the stream is divided among its shards: each "
                f"lane has rows of its own, and {[*names]} may be those of several"
            )
            raise ValueError(msg)

    async def claim(self, name: bytes, by: str) -> None:
        """Make sure of an output that is a sharded stream as well."""
        if (name, by) not in self._claimed:
            number = len(self.shards.keys)
            await self._wait(_core.claim_shards(self._url, name, number, by))
            self._claimed.add((name, by))


def is_sharded(url: RedisConnection, stream: bytes) -> bool:
    """Tell whether it is one, as far as that can be found out."""
    try:
        return bool(shards_of(url, stream))
    except RedfloeError:  # which the loop would raise
        return False


def refuse_with_lanes(given: dict[str, object]) -> None:
    """Refuse what there is of these, each called so: it is for a single lane."""
    for what, value in given.items():
        if value:
            msg = f"{what} cannot be used with a sharded stream, which has a lane for each shard"
            raise ValueError(msg)


async def find_shards(
    core: _core.Processor, wait: Waits, dead_letter: bytes | None = None
) -> _core.Shards | None:
    """Give the shards, where the processor's stream is a sharded one.

    Another such stream is made sure of, where one is named for its dead letters.
    """
    try:
        return await wait(core.find_shards(dead_letter))
    except AuthenticationError:  # who may not ask is taken to have a plain stream
        return None


def make_lanes(
    url: RedisConnection,
    asked: Request,
    arguments: ProcessorArguments,
    shards: _core.Shards,
    wait: Waits,
    make: Any,
) -> Lanes[Any]:
    """Make the lanes, none of which is held yet."""
    keys, known = shards.keys, dict(asked["schema"] or {})
    dead_letter, lease_ms = arguments["dead_letter"], arguments["lease_ms"]
    claimed: set[tuple[bytes, str]] = set()

    def lane(key: bytes, runtime: _core.Runtime) -> Session[Any]:
        # Its name is there; a shard that nothing was written to is not.
        request = asked | {"stream": key, "must_exist": False}
        letters = None if dead_letter is None else _beside(key, dead_letter)
        own = arguments | {"dead_letter": letters}
        return Session(
            _core.Processor(url, request, own, runtime),
            wait,
            make,
            source=Source(url, request, None),
            known=known,
            has_dead_letter=letters is not None,
            is_of_group=False,
            sinks=[],
            shard=Shard(url, keys.index(key), shards, wait, claimed),
        )

    def member(own: bytes, runtime: _core.Runtime) -> _core.LaneMember:
        counts = len(keys), min(3 * lease_ms, _LONGEST)
        return _core.LaneMember(url, keys[0], arguments["name"], own, counts, runtime)

    drains = asked["on_idle"] == "stop"
    return Lanes(keys, lane, member, wait, lease_ms=lease_ms, drains=drains)


def _beside(key: bytes, name: bytes) -> bytes:
    """Give the shard of another stream that shares the slot of a shard."""
    return name + key[key.rindex(b":{") :]


async def look_weakly(look: WeakMethod[Callable[..., Any]], *given: Any) -> Lanes[Any] | None:
    """Call a processor's method, as long as somebody has the processor."""
    method = look()
    lanes: Lanes[Any] | None = None if method is None else await method(*given)
    return lanes
