"""Which handler takes which messages."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from redfloe._checks import not_negative
from redfloe._consuming.handling import _check_handler
from redfloe._functions import is_async
from redfloe._schema import as_text
from redfloe.messages._calls import Arguments, arguments_of
from redfloe.messages._codecs import Codec, CodecLike, codec_of
from redfloe.messages._kinds import Kind, kind_of_model
from redfloe.messages._retry import check_retry
from redfloe.messages._schema_of import check_key, is_model
from redfloe.messages._settings import checked

if TYPE_CHECKING:
    from redfloe.messages._message import Message
    from redfloe.messages._retry import Retry

F = TypeVar("F", bound=Callable[..., Any])

Key = str | Callable[["Message"], Hashable]


@dataclass(frozen=True, eq=False)
class Handler:
    """A function, and the messages that it is called with."""

    function: Callable[..., Any]
    arguments: Arguments
    #: None for the app's own.
    stream: str | None
    #: By the name of the type; without a model the payload is as the codec reads it.
    kinds: dict[str, Kind]
    #: None for all.
    types: frozenset[str] | None
    codec: Codec | None
    retry: Retry | None
    #: In seconds.
    timeout: float | None
    key: Key | None
    takes_frames: bool
    #: As it is given: what is replaced in it may be another process's. None for the app's.
    group: str | None = None
    exactly_once: bool = False
    #: Whether no other handler may take messages of its stream in its group.
    is_alone: bool = False

    @property
    def is_async(self) -> bool:
        """Whether it is awaited."""
        return is_async(self.function)

    @property
    def name(self) -> str:
        """What it is called."""
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)


class Router:
    """Handlers of messages, by stream and type; an `App` includes it.

    A handler is a function, async or not: async ones run on the app's event loop, others in
    threads. A parameter annotated as `Message`, or called ``message`` or ``msg``, gets the
    `Message`, another the event. Without a model a single parameter gets the message. One annotated
    as `Transaction`, or called ``tx``, gets what is committed with the message, exactly once.

    A message is done when all its handlers have returned. One that returns False says that it is
    not done, and comes again after a while. One that raises is called again, as `Retry` says;
    then the message goes to the dead-letter stream, or without one the app raises the exception.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> from redfloe.messages import App, Router
    >>> class Event(BaseModel):
    ...     action: str
    >>> router = Router()
    >>> @router.on("events", Event)
    ... async def show(event: Event) -> None:
    ...     print(event.action)
    >>> app = App(url, group="shown", on_misfit="raise")
    >>> app.include(router)
    >>> app.drain()
    click
    view
    <Drained: 2 handled, 0 published, 0 failed>
    """

    def __init__(self) -> None:
        self._handlers: list[Handler] = []

    def __repr__(self) -> str:
        return f"<Router of {len(self._handlers)} handlers>"

    @property
    def handlers(self) -> Sequence[Handler]:
        """All that were registered, in order."""
        return tuple(self._handlers)

    def on(
        self,
        stream: str | None = None,
        *models: type,
        types: Iterable[str] | None = None,
        codec: CodecLike | None = None,
        key: Key | None = None,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        group: str | None = None,
        exactly_once: bool = False,
    ) -> Callable[[F], F]:
        """Register a handler of single messages, as a decorator.

        Parameters
        ----------
        stream : str, optional
            The stream's key; by default the app's, of its settings.
        *models : type
            The models of the events that it takes. Without one it takes all types, or `types`.
        types : iterable of str, optional
            The names of the types that it takes: of the one model, which has its own otherwise, or
            without a model.
        codec : {"row", "json", "natricine", "faststream"} or Codec, optional
            How the stream's messages are entries; by default the app's. One for each stream.
        key : str or callable, optional
            A field of the event, or a function of the `Message`: messages of the same key are
            handled one after the other, in order, also with `concurrency`. A message whose key
            cannot be told is a misfit.
        retry : Retry, optional
            By default the app's.
        timeout : float or timedelta, optional
            How many seconds a call may take, of an async handler: then it is cancelled, and has
            failed.
        group : str, optional
            A consumer group of the handler's own, in which ``{hostname}`` and ``{pid}`` are
            replaced: it gets all messages of the stream, whatever happens to them in the app's.
        exactly_once : bool, default False
            Commit what the handler publishes by its `Transaction`, a parameter called ``tx``, in
            one step with the acknowledgement: a script (EVALSHA). For all handlers of the stream in
            its group, or none; they are called one after the other, and tried again together with
            those of the batch's other messages. Needs an app with a `consumer` name that stays.

        Raises
        ------
        ValueError, TypeError
            The function is no handler, arguments exclude each other, or a model has no such key.
        """

        def register(function: F) -> F:
            self._register(
                function,
                stream,
                models,
                types,
                codec,
                key,
                retry,
                timeout,
                takes_frames=False,
                group=group,
                exactly_once=exactly_once,
            )
            return function

        return register

    def on_batch(
        self,
        stream: str | None,
        *models: type,
        types: Iterable[str] | None = None,
        codec: CodecLike | None = None,
        retry: Retry | None = None,
        group: str | None = None,
        exactly_once: bool = False,
    ) -> Callable[[F], F]:
        """Register a handler of many events at once, as columns, as a decorator.

        It gets a ``pl.DataFrame`` with ``_id``, ``_ts`` and the fields of `schema_of`, of one
        model: what `read_stream` gives. Types and required fields are checked, and defaults filled
        in; a model's validators do not run, unless the stream has handlers of single messages too.
        A batch that fails is halved until the events that fail are alone.

        Parameters
        ----------
        stream, types, codec, retry, group, exactly_once
            As for `on`.
        *models : type
            The models of the events that it takes, one at least; each batch is of one.

        Raises
        ------
        ValueError, TypeError
            As for `on`.
        """
        if not models:
            msg = "on_batch needs the model whose fields are the frame's columns"
            raise TypeError(msg)

        def register(function: F) -> F:
            self._register(
                function,
                stream,
                models,
                types,
                codec,
                None,
                retry,
                None,
                takes_frames=True,
                group=group,
                exactly_once=exactly_once,
            )
            return function

        return register

    def include(self, *routers: Router) -> None:
        """Take the handlers of other routers too, those that they have now.

        Parameters
        ----------
        *routers : Router
            As many as there are.
        """
        self._add([handler for router in routers for handler in router._handlers])

    def _add(self, handlers: Sequence[Handler]) -> None:
        self._handlers += handlers

    def _register(
        self,
        function: Callable[..., Any],
        stream: str | None,
        models: Sequence[type],
        types: Iterable[str] | None,
        codec: CodecLike | None,
        key: Key | None,
        retry: Retry | None,
        timeout: float | timedelta | None,
        *,
        takes_frames: bool,
        group: str | None = None,
        exactly_once: bool = False,
        is_alone: bool = False,
    ) -> None:
        _check_handler(function)
        if is_model(stream):
            msg = 'name the stream before the model: on("orders", OrderPlaced)'
            raise TypeError(msg)
        if stream is not None and not as_text(stream, "stream"):
            msg = "stream is empty: name one, or leave it out for the app's"
            raise ValueError(msg)
        names = None if types is None else frozenset(_names(types))
        if names is not None and not names:
            msg = "types is empty: name one, or leave it out"
            raise ValueError(msg)
        if names is not None and len(models) > 1:
            msg = "types name those of one model; register the handler for each model"
            raise ValueError(msg)
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        if timeout is not None and not is_async(function):
            msg = "timeout needs an async handler: nothing can end a thread"
            raise ValueError(msg)
        if timeout is not None:
            not_negative(timeout, "timeout")
        if timeout == 0:
            msg = "timeout must be more than 0 seconds"
            raise ValueError(msg)
        check_retry(retry)
        kinds: dict[str, Kind] = {}
        for model in models:
            if isinstance(key, str):
                check_key(key, model)
            kind = kind_of_model(model)
            kinds |= dict.fromkeys(names or (kind.name,), kind)
        handler = Handler(
            function,
            arguments_of(function, has_model=bool(models), takes_frames=takes_frames),
            stream,
            kinds,
            frozenset(kinds) if models else names,
            None if codec is None else codec_of(codec),
            retry,
            timeout,
            key,
            takes_frames,
            None if group is None else checked(group, "group"),
            exactly_once,
            is_alone,
        )
        self._add([handler])


def _names(types: Iterable[str]) -> Iterable[str]:
    if isinstance(types, str):
        return (types,)
    return [as_text(name, "types") for name in types]
