"""Calls of the handlers of messages: functions of their own, so that `telemetry` can replace them.

They are looked up by this module at each call, which imports nothing, pydantic least of all.
"""

from __future__ import annotations

from typing import Any, TypeVar

F = TypeVar("F")


async def call_and_await(call: Any, item: Any) -> Any:
    """Call a handler with a message, or with many as columns, in an event loop."""
    return await call.invoke(item)


def observe_calls(handler: F) -> F:
    """Say of what calls handlers of messages that each of its calls is observed, rather than it."""
    marked: Any = handler
    marked.observes_calls = True
    return handler


def call_in_thread(call: Any, item: Any) -> Any:
    """Do so where nothing is awaited."""
    return call.invoke(item)
