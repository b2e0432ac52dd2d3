"""What becomes of the messages of one stream: the handlers for each type, ready to be called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from redfloe.messages._calls import WrongHandlerError, check_result
from redfloe.messages._codecs import ColumnRows
from redfloe.messages._kinds import DICT, DictKind, Kind

if TYPE_CHECKING:
    import polars as pl

    from redfloe._arguments import Request
    from redfloe._consuming.retry import Retry as Steps
    from redfloe.messages._codecs import Codec, Rows
    from redfloe.messages._delivery import Item
    from redfloe.messages._message import Message
    from redfloe.messages._retry import Retry
    from redfloe.messages._router import Handler, Key

Middleware = Callable[["Message", Callable[["Message"], Awaitable[Any]]], Awaitable[Any]]


@dataclass(frozen=True, eq=False)
class Call:
    """A handler as it is called with an item: in a thread, or in an event loop and awaited."""

    name: str
    invoke: Callable[[Any], Any]
    retry: Steps


@dataclass(frozen=True, eq=False)
class Route:
    """What takes the messages of a type."""

    kind: Kind | DictKind
    #: With single messages, and with columns.
    calls: tuple[Call, ...]
    frame_calls: tuple[Call, ...]
    key: Callable[[Item], Hashable] | None


class StreamPlan:
    """The handlers of a stream."""

    def __init__(
        self,
        stream: str,
        group: str,
        handlers: Sequence[Handler],
        *,
        codec: Codec,
        retry: Retry,
        middleware: Sequence[Middleware],
        run_in_thread: Callable[..., Awaitable[Any]],
        exactly_once: bool = False,
    ) -> None:
        self.stream = stream
        self.group = group
        #: Whether handlers are called with transactions.
        self.exactly_once = exactly_once
        for handler in handlers:
            _check_transaction(handler, exactly_once=exactly_once)
        self.codec = _codec(stream, handlers, codec)
        self._handlers = handlers
        wrapped = middleware and not all(handler.takes_frames for handler in handlers)
        #: Whether nothing has to be awaited, so that lanes are threads.
        self.in_threads = not wrapped and not any(handler.is_async for handler in handlers)
        run = None if self.in_threads else run_in_thread
        self._calls = {handler: _call(handler, retry, middleware, run) for handler in handlers}
        self.kinds = _kinds(stream, handlers)
        models = {*self.kinds.values()}
        #: What an entry is that does not say its type.
        self._only = next(iter(models)) if len(models) == 1 else None
        self._routes: dict[str | None, Route | None] = {}
        self._typed = self._typed_options()
        for name in self.kinds:
            self.route(name)  # which looks whether its handlers fit together

    @property
    def async_names(self) -> list[str]:
        """The names of the handlers that are awaited."""
        return [handler.name for handler in self._handlers if handler.is_async]

    @property
    def is_typed(self) -> bool:
        """Whether batches are read as columns of their dtypes: no handler takes single messages."""
        return self._typed is not None

    @property
    def has_keys(self) -> bool:
        """Whether some messages keep their order."""
        return any(handler.key is not None for handler in self._handlers)

    @property
    def options(self) -> dict[str, Any]:
        """What a consumer needs to read the messages."""
        if self._typed is not None:
            return {**self._typed, "rescue_column": RESCUED}
        is_open = any(not handler.kinds for handler in self._handlers)
        options = self.codec.options([*self.kinds.values()], is_open=is_open)
        return {**options, "include_id": False, "include_timestamp": False}

    def rows(self, frame: pl.DataFrame) -> Rows:
        """Give the messages of what was read."""
        if self.is_typed:
            return ColumnRows(frame, self.codec.type_field)
        return self.codec.rows(frame)

    def route(self, name: str | None) -> Route | None:
        """Give what takes messages of a type, or of none; None where nothing does."""
        if name not in self._routes:
            if len(self._routes) > _MOST_TYPES:  # names come from outside
                self._routes.clear()
            self._routes[name] = self._find(name)
        return self._routes[name]

    def _find(self, name: str | None) -> Route | None:
        takers = [handler for handler in self._handlers if self._takes(handler, name)]
        if not takers:
            return None
        kind = self._only if name is None else self.kinds.get(name)
        keys = [handler.key for handler in takers if handler.key is not None]
        if len(set(keys)) > 1:
            msg = f"the handlers of {name!r} on the stream {self.stream!r} have different keys"
            raise ValueError(msg)
        return Route(
            DICT if kind is None else kind,
            tuple(self._calls[one] for one in takers if not one.takes_frames),
            tuple(self._calls[one] for one in takers if one.takes_frames),
            _key(keys[0]) if keys else None,
        )

    def _takes(self, handler: Handler, name: str | None) -> bool:
        if handler.types is None:
            return True
        if name is None:
            return self._only is not None and self._only in handler.kinds.values()
        return name in handler.types

    def _typed_options(self) -> dict[str, Any] | None:
        if not all(handler.takes_frames for handler in self._handlers):
            return None
        schema: dict[str, pl.DataType] = {}
        kinds = self.kinds.values()
        for kind in kinds:
            for field in kind.fields:
                if schema.setdefault(field.name, field.dtype) != field.dtype:
                    return None
        if self.codec.document is not None and not all(map(_has_required, kinds)):
            return None  # no document at all would pass for an event of defaults
        return self.codec.typed_options(schema)


def expect_no_fields(request: Request) -> None:
    """Have the core not warn of fields that never come: some are optional, a model says which."""
    request["expects_fields"] = False


#: The column of what does not fit.
RESCUED = "_redfloe_misfits"
_MOST_TYPES = 10_000


def _check_transaction(handler: Handler, *, exactly_once: bool) -> None:
    if not exactly_once and "tx" in handler.arguments:
        msg = (
            f"the handler {handler.name} takes a transaction: register it by on(..., "
            "exactly_once=True), or run it by a Processor"
        )
        raise ValueError(msg)
    if exactly_once and handler.retry is not None:
        msg = (
            f"the handler {handler.name} has a retry of its own, but what is committed together is "
            "tried again together: name it for all, App(retry=...) or Processor.run(attempts=...)"
        )
        raise ValueError(msg)


def _codec(stream: str, handlers: Sequence[Handler], default: Codec) -> Codec:
    named = {handler.codec for handler in handlers if handler.codec is not None}
    if len(named) > 1:
        msg = f"the handlers of the stream {stream!r} name different codecs"
        raise ValueError(msg)
    return named.pop() if named else default


def _kinds(stream: str, handlers: Sequence[Handler]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for handler in handlers:
        for name, kind in handler.kinds.items():
            if kinds.setdefault(name, kind) is not kind:
                msg = (
                    f"two models are called {name!r} on the stream {stream!r}; name the types: "
                    "on(stream, Model, types=[...])"
                )
                raise ValueError(msg)
    return kinds


def _has_required(kind: Kind) -> bool:
    return any(field.required and not field.nullable for field in kind.fields)


def _key(key: Key) -> Callable[[Item], Hashable]:
    if callable(key):
        return lambda item: key(item.message)
    of_event = attrgetter(key)

    def of_item(item: Item) -> Hashable:
        event = item.event
        found: Hashable = event.get(key) if isinstance(event, dict) else of_event(event)
        return found

    return of_item


def _call(
    handler: Handler,
    retry: Retry,
    middleware: Sequence[Middleware],
    run_in_thread: Callable[..., Awaitable[Any]] | None,
) -> Call:
    """Give a handler's call, to be awaited where there is something that runs it in a thread."""
    invoke = _invoke(handler)
    if handler.timeout is not None:
        invoke = _limited(invoke, handler.timeout)
    if run_in_thread is not None and not handler.is_async:
        invoke = _in_thread(invoke, handler.name, run_in_thread)
    if middleware and not handler.takes_frames:
        invoke = _wrapped(invoke, middleware)
    return Call(handler.name, invoke, (handler.retry or retry)._steps())


def _invoke(handler: Handler) -> Callable[[Any], Any]:
    function = handler.function
    match handler.arguments:
        case ("event",):
            return lambda item: function(item.event)
        case ("message",):
            return lambda item: function(item.message)
        case ("event", "message"):
            return lambda item: function(item.event, item.message)
        case ("message", "event"):
            return lambda item: function(item.message, item.event)
        case ("frame",):
            return lambda part: function(part.frame)
    of_item: Any = attrgetter(*handler.arguments)
    return lambda item: function(*of_item(item))


def _limited(invoke: Callable[[Any], Any], seconds: float) -> Callable[[Any], Any]:
    async def call(item: Any) -> Any:
        async with asyncio.timeout(seconds):
            return await invoke(item)

    return call


def _in_thread(
    invoke: Callable[[Any], Any], name: str, run_in_thread: Callable[..., Awaitable[Any]]
) -> Callable[[Any], Any]:
    async def call(item: Any) -> Any:
        result = await run_in_thread(invoke, item)
        check_result(name, result)
        return result

    return call


def _wrapped(
    invoke: Callable[[Any], Any], middleware: Sequence[Middleware]
) -> Callable[[Any], Any]:
    def call(item: Item) -> Awaitable[Any]:
        given = item.message

        async def innermost(message: Message) -> Any:
            _check_given(message, given)
            item.event = message.event  # which a middleware may have replaced
            return await invoke(item)

        call_next: Callable[[Message], Awaitable[Any]] = innermost
        for one in reversed(middleware):
            call_next = _around(one, call_next)
        return call_next(given)

    return call


def _around(
    middleware: Middleware, call_next: Callable[[Message], Awaitable[Any]]
) -> Callable[[Message], Awaitable[Any]]:
    return lambda message: middleware(message, call_next)


def _check_given(message: object, given: Message) -> None:
    if message is not given:
        msg = (
            f"a middleware has called call_next with {message!r:.80}, and must pass on the message "
            f"that it was given, {given!r}; assign message.event if the handler is to get another"
        )
        raise WrongHandlerError(msg)
