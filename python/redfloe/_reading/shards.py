"""Streams that turn out to be sharded ones: what was asked of the name is asked of the shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from redfloe import _core
from redfloe._arguments import Many
from redfloe._checks import as_key
from redfloe._errors import AuthenticationError, WrongTypeError
from redfloe._event_loop import completed
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redfloe._arguments import Request, Streams
    from redfloe._core import RedisConnection
    from redfloe._processing.session import Waits

T = TypeVar("T")


def over_shards(url: RedisConnection, request: Request, ask: Callable[[Request], T]) -> T:
    """Ask for what a request says; where its stream is a sharded one, of its shards.

    Only a server that answers WRONGTYPE is asked what the stream is (HGETALL).
    """
    try:
        return ask(request)
    except WrongTypeError:
        found = found_over_shards(url, request)
        if found is None:
            raise
    return ask(found)


async def over_shards_async(
    url: RedisConnection, request: Request, ask: Callable[[Request], Awaitable[T]]
) -> T:
    """Do the same in an event loop."""
    try:
        return await ask(request)
    except WrongTypeError:
        found = await found_over_shards_async(url, request)
        if found is None:
            raise
    return await ask(found)


def found_over_shards(url: RedisConnection, request: Request) -> Request | None:
    """Give the request of a stream's shards, where it is a sharded one."""
    if request["many"] is not None:
        return None
    return _of(request, _finding(url, request).wait())


async def found_over_shards_async(url: RedisConnection, request: Request) -> Request | None:
    """Do the same in an event loop."""
    if request["many"] is not None:
        return None
    return _of(request, await completed(_finding(url, request).start()))


async def find_shards(url: RedisConnection, stream: bytes, wait: Waits) -> _core.Shards | None:
    """Give what a stream is, if it is a sharded one and one may ask that."""
    try:
        return await wait(_core.find_shards(url, stream))
    except AuthenticationError:  # who may not ask is taken to read a plain stream
        return None


def shards_of(url: RedisConnection, stream: Streams | None) -> list[bytes]:
    """Give the keys of the shards, where a single stream is a sharded one; else nothing."""
    if not isinstance(stream, str | bytes):
        return []
    try:
        found = _core.find_shards(url, as_key(stream, "stream")).wait()
    except AuthenticationError:  # who may not ask is taken to read a plain stream
        return []
    return [] if found is None else found.keys


async def shards_of_async(url: RedisConnection, stream: Streams | None) -> list[bytes]:
    """Give the same in an event loop."""
    if not isinstance(stream, str | bytes):
        return []
    try:
        found = await completed(_core.find_shards(url, as_key(stream, "stream")).start())
    except AuthenticationError:
        return []
    return [] if found is None else found.keys


def refuse_name(
    stream: str | bytes, shards: list[bytes], because: BaseException | None = None
) -> None:
    """Refuse the name of a sharded stream, of which these are the shards, if it is one."""
    if shards:
        msg = (
            f"{readable(as_key(stream, 'stream'))!r} is a sharded stream, and this takes the key "
            f"of a single one: name one of its {len(shards)} shards, such as "
            f"{readable(shards[0])!r}"
        )
        raise WrongTypeError(msg) from because


def _of(request: Request, shards: _core.Shards | None) -> Request | None:
    if shards is None:
        return None
    many = Many(
        streams=shards.keys,
        order=request["order"],
        on_schema_mismatch=request["on_schema_mismatch"],
        compare_dtypes=True,
        pattern=None,
        ranges=None,
    )
    group = request["group"]
    if group is not None:
        group = group | {"by_shard": True}
    # Its name is there; a shard that nothing was written to is not, and is empty all the same.
    return request | {"many": many, "group": group, "must_exist": False}


def _finding(url: RedisConnection, request: Request) -> _core.Operation[_core.Shards | None]:
    group = request["group"]
    dead_letter = None if group is None else group["dead_letter"]
    return _core.find_shards(url, request["stream"], dead_letter)
