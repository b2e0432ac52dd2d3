"""A processor whose batches are messages for the handlers of routers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from redfloe import _core
from redfloe._errors import DecodeError
from redfloe._processing.processor import StreamProcessor
from redfloe.messages._codecs import CodecLike, codec_of
from redfloe.messages._decode import policy_of
from redfloe.messages._delivery import Limits
from redfloe.messages._errors import misfit_of
from redfloe.messages._outgoing import Outlet
from redfloe.messages._plan import StreamPlan, expect_no_fields
from redfloe.messages._processing import RAISED, Processing
from redfloe.messages._retry import Retry
from redfloe.messages._threads import Threads
from redfloe.messages._transaction import Outputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redfloe._core import RedisConnection
    from redfloe._processing.running import T
    from redfloe._processing.session import Session
    from redfloe.messages._codecs import Codec
    from redfloe.messages._decode import Policy
    from redfloe.messages._router import Handler, Router


class PlanProcessor(StreamProcessor):
    """Has the handlers of a plan called with each batch, by `run`, `run_async` or `start`."""

    def __init__(
        self,
        url: str | RedisConnection,
        plan: StreamPlan,
        policy: Policy,
        *,
        codec: Codec,
        outlet: Outlet,
        threads: Threads,
        dead_letter: str | bytes | None,
        **options: Any,
    ) -> None:
        super().__init__(
            url,
            plan.stream,
            dead_letter=dead_letter,
            on_error="dead_letter" if policy.on_misfit == "dead_letter" else "raise",
            **plan.options,
            **options,
        )
        expect_no_fields(self._request)
        self._raised = RAISED
        #: How many messages of a batch are not committed, also in a pause between attempts.
        self.in_hand = 0
        limits = Limits(has_dead_letter=dead_letter is not None, longest_delay=None, lease=None)
        outputs = Outputs(outlet, codec, self._check_output)
        self._processing = Processing(plan, policy, limits, outputs, threads)
        self._handler = self._processing.handler
        self._read_from = plan.stream

    async def _next(self, session: Session[T]) -> T | None:
        self.in_hand = 0
        try:
            batch = await super()._next(session)
        except DecodeError as error:
            if error.entry_id is None:
                raise  # what was saved is meant, and no entry
            raise misfit_of(error, self._read_from) from error
        self.in_hand = 0 if batch is None else len(batch)
        return batch

    def _check_output(self, stream: bytes) -> None:
        arguments = self._arguments | {"outputs": [stream]}
        _core.check_processor(self._connection, self._request, arguments)


class Processor(PlanProcessor):
    """Process a stream's messages exactly once: what handlers do is committed with their messages.

    It is a `StreamProcessor` that calls the handlers of routers, of a batch's messages one after
    the other in the order of the stream. What they publish (`Transaction.publish`), what changes of
    the state, and the position after the batch are written in one step. `run` works until `stop`,
    in the calling thread; with async handlers `run_async` does, in an event loop; `start` is `run`
    in a thread.

    Where a handler raises, nothing of its batch is in, and the batch is tried again and halved, as
    `StreamProcessor.run` says, until its message is alone; that one goes to the dead-letter stream,
    in a commit. Handlers are called with the other messages again then, so what else they do than
    by their transaction may happen twice. One that returns False has failed with `NotDoneError`.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str
        The stream's key; handlers that name no stream take its messages too.
    *routers : Router
        Whose handlers are called. Without a parameter for the `Transaction` they commit nothing but
        that their message is done with.
    name : str
        The processor's name, under which its state and position are kept.
    codec : {"row", "json", "natricine", "faststream"} or Codec, default "row"
        How messages are entries, those that are read and those that are published.
    outputs : mapping of types, or iterable of str or bytes, default ()
        The streams that handlers publish to, of each type of event, by model or name; or these
        streams alone, and each call of `Transaction.publish` names one. In a Redis Cluster those in
        another slot are refused at once.
    dead_letter : str or bytes, optional
        The stream for messages that cannot be handled; in a Redis Cluster in the slot of `stream`.
        Without it what a handler raises at last is raised.
    on_unknown : {"ack", "fail", "raise"}, default "ack"
        What to do with messages that no handler takes: go on after them, move them to the
        dead-letter stream, or raise `UnknownTypeError`.
    on_misfit : {"dead_letter", "raise"}, optional
        As for `App`.
    **options
        What else a `StreamProcessor` takes: `group` and `consumer`, `start_id`, `batch_size`,
        `on_idle`, `max_deliveries`, `takeover`, `handle_signals`, and so on.

    Raises
    ------
    MisfitError, UnknownTypeError
        From `run`, as `on_misfit` and `on_unknown` say. Nothing of their batch is in.
    ValueError, TypeError, SchemaError
        At once, where an argument cannot be right, or handlers do not fit together.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> from redfloe.messages import Processor, Router, Transaction
    >>> class Event(BaseModel):
    ...     user_id: str
    >>> class Greeting(BaseModel):
    ...     text: str
    >>> router = Router()
    >>> @router.on("events", Event)
    ... def greet(event: Event, tx: Transaction) -> None:
    ...     tx.state["seen"] = tx.state.get("seen", 0) + 1
    ...     tx.publish(Greeting(text=f"{tx.state['seen']}. {event.user_id}"))
    >>> outputs = {Greeting: "greetings"}
    >>> processor = Processor(
    ...     url, "events", router, name="greeter", outputs=outputs, on_idle="stop", block_ms=1
    ... )
    >>> processor.run()
    >>> import redfloe
    >>> redfloe.read_stream(url, "greetings")["text"].to_list()
    ['1. user_1', '2. user_2']
    """

    def __init__(
        self,
        url: str | RedisConnection,
        stream: str,
        *routers: Router,
        name: str | bytes,
        codec: CodecLike = "row",
        outputs: Mapping[Any, str | bytes] | Iterable[str | bytes] = (),
        dead_letter: str | bytes | None = None,
        on_unknown: Literal["ack", "fail", "raise"] = "ack",
        on_misfit: Literal["dead_letter", "raise"] | None = None,
        **options: Any,
    ) -> None:
        threads = Threads(f"redfloe-{name!s}")
        chosen = codec_of(codec)
        plan = StreamPlan(
            stream,
            "",
            _handlers(stream, routers),
            codec=chosen,
            retry=Retry(),
            middleware=(),
            run_in_thread=threads.run,
            exactly_once=True,
        )
        super().__init__(
            url,
            plan,
            policy_of(on_unknown, on_misfit, has_dead_letter=dead_letter is not None),
            codec=chosen,
            outlet=Outlet(outputs if isinstance(outputs, Mapping) else None),
            threads=threads,
            dead_letter=dead_letter,
            name=name,
            outputs=[*outputs.values()] if isinstance(outputs, Mapping) else outputs,
            **options,
        )


def _handlers(stream: str, routers: Iterable[Router]) -> Sequence[Handler]:
    handlers = [handler for router in routers for handler in router.handlers]
    if not handlers:
        msg = "a Processor calls the handlers of routers: pass one that has some"
        raise ValueError(msg)
    for handler in handlers:
        if handler.stream not in (None, stream):
            msg = (
                f"the handler {handler.name} takes messages of {handler.stream!r}, and the "
                f"processor's stream is {stream!r}; give each stream a Router and a Processor"
            )
            raise ValueError(msg)
        if handler.group is not None:
            msg = (
                f"the handler {handler.name} has a group of its own; a Processor has one for all "
                "of its handlers, or none: Processor(group=..., consumer=...)"
            )
            raise ValueError(msg)
    return handlers
