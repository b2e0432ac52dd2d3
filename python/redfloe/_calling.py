"""Calls of the handlers of messages: functions of their own, so that `telemetry` can replace them.

They are looked up by this module at each call, which imports nothing, pydantic least of all.
"""

from __future__ import annotations

from typing import Any


async def call_and_await(call: Any, item: Any) -> Any:
    """Call a handler with a message, or with many as columns, in an event loop."""
    return await call.invoke(item)


def call_in_thread(call: Any, item: Any) -> Any:
    """Do so where nothing is awaited."""
    return call.invoke(item)
