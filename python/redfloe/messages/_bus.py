"""Buses: commands that one handler takes, and events that all who want to know of them do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from redfloe._schema import as_text
from redfloe.messages._app import App
from redfloe.messages._calls import models_of
from redfloe.messages._codecs import CodecLike, codec_of
from redfloe.messages._kinds import type_name
from redfloe.messages._message import Message
from redfloe.messages._producer import AsyncProducer, Producer
from redfloe.messages._schema_of import is_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import timedelta
    from types import TracebackType

    from redfloe._core import RedisConnection
    from redfloe.messages._retry import Retry
    from redfloe.messages._router import Key

F = TypeVar("F", bound="Callable[..., Any]")


class Marshaler:
    """How a bus's messages are entries, and what their types are called.

    Parameters
    ----------
    codec : {"row", "json", "natricine", "faststream"} or Codec, default "row"
        How a message is an entry.
    name : callable, optional
        Gives the name of a model, which is also the end of its stream's; by default its
        `__message_type__`, or the name of the class.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> from redfloe.messages import CommandBus, Marshaler
    >>> class CreateUser(BaseModel):
    ...     name: str
    >>> CommandBus(url, marshaler=Marshaler("natricine")).stream(CreateUser)
    'command.CreateUser'
    """

    def __init__(
        self, codec: CodecLike = "row", *, name: Callable[[type], str] = type_name
    ) -> None:
        self.codec = codec_of(codec)
        self._name = name

    def name(self, model: type) -> str:
        """Give what a model's messages are called."""
        return as_text(self._name(model), "what name gives")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.codec).__name__})"


class _Bus:
    """A stream for each type, and handlers of them in an app."""

    def __init__(
        self,
        app: App | str | RedisConnection,
        prefix: str,
        marshaler: Marshaler | CodecLike,
        options: dict[str, Any],
    ) -> None:
        self._prefix = as_text(prefix, "prefix")
        self.marshaler = marshaler if isinstance(marshaler, Marshaler) else Marshaler(marshaler)
        self._app = app if isinstance(app, App) else None
        self._group = None if self._app is None else self._app._group
        options["codec"] = self.marshaler.codec
        if isinstance(app, App):
            self._producer = app.producer(self._stream_of, **options)
        else:
            self._producer = Producer(app, self._stream_of, **options)
        self._async_producer = AsyncProducer(self._producer)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._prefix}* on {self._app or self._producer!r}>"

    def stream(self, model: type | str) -> str:
        """Give the stream of a type: the prefix, and its name.

        Parameters
        ----------
        model : type or str
            The type, or its name.
        """
        name = self.marshaler.name(model) if isinstance(model, type) else model
        return self._prefix + name

    def _stream_of(self, message: Message) -> str:
        assert message.type is not None, "_named has looked"
        return self.stream(message.type)

    def _named(self, event: Any) -> Message:
        if not isinstance(event, Message) and is_model(type(event)):
            return Message(self.marshaler.name(type(event)), event)
        if not isinstance(event, Message) or event.type is None:
            msg = f"a bus takes an instance of a model, or a Message with a type, not {event!r:.80}"
            raise TypeError(msg)
        return event

    def _handle(
        self,
        function: F,
        group: Callable[[str], str | None],
        *,
        retry: Retry | None,
        timeout: float | timedelta | None,
        key: Key | None,
        exactly_once: bool,
    ) -> F:
        """Register a handler of the models that its parameter's annotation names."""
        if self._app is None:
            msg = f"a {type(self).__name__} with handlers needs an app: {type(self).__name__}(app)"
            raise ValueError(msg)
        models = [*models_of(function)]
        name = getattr(function, "__name__", type(function).__name__)
        of_its_own = group(name)
        for model in models:
            self._refuse_second(model, of_its_own)
        for model in models:
            self._app._register(
                function,
                self.stream(model),
                [model],
                [self.marshaler.name(model)],
                self.marshaler.codec,
                key,
                retry,
                timeout,
                takes_frames=False,
                group=of_its_own,
                exactly_once=exactly_once,
                is_alone=True,
            )
        return function

    def _refuse_second(self, model: type, group: str | None) -> None:
        """Refuse a handler that would share its messages with another one."""
        assert self._app is not None
        stream = self.stream(model)
        for other in self._app.handlers:
            of_other = self._group if other.group is None else other.group
            if other.stream == stream and of_other == (self._group if group is None else group):
                raise ValueError(self._problem(model, other.name, group))

    def _problem(self, model: type, other: str, group: str | None) -> str:
        raise NotImplementedError

    def close(self) -> None:
        """Close the producer; the app is not the bus's to stop."""
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._producer.__exit__(exc_type, exc, traceback)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._producer.__aexit__(exc_type, exc, traceback)


class CommandBus(_Bus):
    """Sends commands, and has each handled by its one handler.

    Each type of command has a stream, ``command.CreateUser`` say, which the app reads in its group.
    A bus on a URL instead of an app sends only.

    Parameters
    ----------
    app : App, str or RedisConnection
        The app that calls the handlers; or the server, for a bus that sends only.
    prefix : str, default "command."
        What the names of streams begin with.
    marshaler : Marshaler or codec, default "row"
        How commands are entries, and what their types are called. ``"natricine"`` reads and writes
        natricine's streams.
    maxlen, max_age, approximate, idempotent
        As for `Producer`.

    Raises
    ------
    ValueError, TypeError
        An argument cannot be right.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> from redfloe.messages import App, CommandBus
    >>> class CreateUser(BaseModel):
    ...     name: str
    >>> app = App(url, group="users", on_misfit="raise")
    >>> commands = CommandBus(app)
    >>> @commands.handler
    ... async def create_user(command: CreateUser) -> None:
    ...     print("created", command.name)
    >>> with commands:
    ...     entry_id = commands.send(CreateUser(name="Alice"))
    >>> app.drain()
    created Alice
    <Drained: 1 handled, 0 published, 0 failed>
    """

    def __init__(
        self,
        app: App | str | RedisConnection,
        *,
        prefix: str = "command.",
        marshaler: Marshaler | CodecLike = "row",
        maxlen: int | None = None,
        max_age: float | timedelta | None = None,
        approximate: bool = True,
        idempotent: str | bytes | None = None,
    ) -> None:
        options = {
            "maxlen": maxlen,
            "max_age": max_age,
            "approximate": approximate,
            "idempotent": idempotent,
        }
        super().__init__(app, prefix, marshaler, options)

    @overload
    def handler(self, function: F, /) -> F: ...
    @overload
    def handler(
        self,
        function: None = ...,
        /,
        *,
        retry: Retry | None = ...,
        timeout: float | timedelta | None = ...,
        key: Key | None = ...,
        exactly_once: bool = ...,
    ) -> Callable[[F], F]: ...
    def handler(
        self,
        function: Any = None,
        /,
        *,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        key: Key | None = None,
        exactly_once: bool = False,
    ) -> Any:
        """Register the handler of a command, as a decorator, with or without options.

        The command is what the function's parameter is annotated with; several are written as a
        union, ``CreateUser | RenameUser``. Otherwise it is a handler as of `Router.on`.

        Parameters
        ----------
        retry, timeout, key, exactly_once
            As for `Router.on`.

        Raises
        ------
        ValueError
            The command has a handler already, or the bus has no app.
        TypeError
            No parameter is annotated with a model.
        """

        def register(function: F) -> F:
            return self._handle(
                function,
                lambda _: None,
                retry=retry,
                timeout=timeout,
                key=key,
                exactly_once=exactly_once,
            )

        return register if function is None else register(function)

    def _problem(self, model: type, other: str, group: str | None) -> str:
        del group
        return f"the command {self.marshaler.name(model)!r} has a handler already, {other}"

    def send(self, command: Any, *, metadata: Mapping[str, Any] | None = None) -> str:
        """Send a command, and wait until it is in its stream.

        Parameters
        ----------
        command : model or Message
            An instance of a model, or a `Message` that names its type.
        metadata : mapping, optional
            What is said about it.

        Returns
        -------
        str
            The entry ID.

        Raises
        ------
        TypeError
            It is neither.
        ValueError, WriteError, OutcomeUnknownError
            As for `Producer.publish`.
        """
        return self._producer.publish(self._named(command), metadata=metadata)

    async def send_async(self, command: Any, *, metadata: Mapping[str, Any] | None = None) -> str:
        """Send a command, in an event loop; as `send`."""
        return await self._async_producer.publish(self._named(command), metadata=metadata)


class EventBus(_Bus):
    """Publishes events, and has each handled by all handlers that want to know of it.

    Each type of event has a stream, ``event.UserCreated`` say, and each handler a consumer group of
    its own: it gets all events, is retried without the others, and begins with those that it has
    not seen. The group is called ``"{group of the app}.{name of the function}"``; if you rename the
    function, give the old name as `group`. A bus on a URL instead of an app publishes only.

    Parameters
    ----------
    app : App, str or RedisConnection
        The app that calls the handlers; or the server, for a bus that publishes only.
    prefix : str, default "event."
        What the names of streams begin with.
    marshaler : Marshaler or codec, default "row"
        How events are entries, and what their types are called. ``"natricine"`` reads and writes
        natricine's streams.
    maxlen, max_age, approximate, idempotent
        As for `Producer`.

    Raises
    ------
    ValueError, TypeError
        An argument cannot be right.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> from redfloe.messages import App, EventBus
    >>> class UserCreated(BaseModel):
    ...     name: str
    >>> app = App(url, group="users", on_misfit="raise")
    >>> events = EventBus(app)
    >>> names, letters = [], []
    >>> @events.handler
    ... async def remember(event: UserCreated) -> None:
    ...     names.append(event.name)
    >>> @events.handler
    ... def welcome(event: UserCreated) -> None:
    ...     letters.append(f"Dear {event.name}")
    >>> with events:
    ...     entry_id = events.publish(UserCreated(name="Alice"))
    >>> drained = app.drain()
    >>> names, letters
    (['Alice'], ['Dear Alice'])
    """

    def __init__(
        self,
        app: App | str | RedisConnection,
        *,
        prefix: str = "event.",
        marshaler: Marshaler | CodecLike = "row",
        maxlen: int | None = None,
        max_age: float | timedelta | None = None,
        approximate: bool = True,
        idempotent: str | bytes | None = None,
    ) -> None:
        options = {
            "maxlen": maxlen,
            "max_age": max_age,
            "approximate": approximate,
            "idempotent": idempotent,
        }
        super().__init__(app, prefix, marshaler, options)

    @overload
    def handler(self, function: F, /) -> F: ...
    @overload
    def handler(
        self,
        function: None = ...,
        /,
        *,
        group: str | None = ...,
        retry: Retry | None = ...,
        timeout: float | timedelta | None = ...,
        key: Key | None = ...,
        exactly_once: bool = ...,
    ) -> Callable[[F], F]: ...
    def handler(
        self,
        function: Any = None,
        /,
        *,
        group: str | None = None,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        key: Key | None = None,
        exactly_once: bool = False,
    ) -> Any:
        """Register a handler of an event, as a decorator, with or without options.

        The event is what the function's parameter is annotated with; several are written as a
        union, ``UserCreated | UserRenamed``. Otherwise it is a handler as of `Router.on`.

        Parameters
        ----------
        group : str, optional
            The consumer group; by default the app's, a dot, and the function's name.
        retry, timeout, key, exactly_once
            As for `Router.on`.

        Raises
        ------
        ValueError
            Another handler of the event has that group, or the bus has no app.
        TypeError
            No parameter is annotated with a model.
        """

        def register(function: F) -> F:
            return self._handle(
                function,
                lambda name: f"{self._group}.{name}" if group is None else group,
                retry=retry,
                timeout=timeout,
                key=key,
                exactly_once=exactly_once,
            )

        return register if function is None else register(function)

    def _problem(self, model: type, other: str, group: str | None) -> str:
        return (
            f"{other} handles {self.marshaler.name(model)!r} in the group {group!r} already, and "
            "each would get a part of the events: name another group, handler(group=...)"
        )

    def publish(self, event: Any, *, metadata: Mapping[str, Any] | None = None) -> str:
        """Publish an event, and wait until it is in its stream.

        Parameters
        ----------
        event : model or Message
            An instance of a model, or a `Message` that names its type.
        metadata : mapping, optional
            What is said about it.

        Returns
        -------
        str
            The entry ID.

        Raises
        ------
        TypeError
            It is neither.
        ValueError, WriteError, OutcomeUnknownError
            As for `Producer.publish`.
        """
        return self._producer.publish(self._named(event), metadata=metadata)

    async def publish_async(self, event: Any, *, metadata: Mapping[str, Any] | None = None) -> str:
        """Publish an event, in an event loop; as `publish`."""
        return await self._async_producer.publish(self._named(event), metadata=metadata)

    def publish_many(
        self, events: Iterable[Any], *, metadata: Mapping[str, Any] | None = None
    ) -> int:
        """Publish events in pipelines, and wait until all are in; as `Producer.publish_many`."""
        return self._producer.publish_many(map(self._named, events), metadata=metadata)

    async def publish_many_async(
        self, events: Iterable[Any], *, metadata: Mapping[str, Any] | None = None
    ) -> int:
        """Publish events in pipelines, in an event loop; as `publish_many`."""
        named = map(self._named, events)
        return await self._async_producer.publish_many(named, metadata=metadata)
