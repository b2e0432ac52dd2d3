"""Faults at the steps of a processor's protocol."""

from __future__ import annotations

import random
from collections.abc import Callable

from support.lanes import step_of
from support.proxy import Command, Fault, Proxy

#: What is lost of a command: as much of it as comes before that part, or only its reply.
PLACES: dict[str, Callable[[random.Random], float | None]] = {
    "before": lambda _: 0,
    "in the first half": lambda chance: chance.uniform(0, 0.5),
    "in the second half": lambda chance: chance.uniform(0.5, 0.999),
    "after": lambda _: None,
}

#: How often a processor of a few batches comes to a step: it acquires the lane and leaves it once,
#: and loads the state and a table.
TIMES = {"acquire": 1, "release": 1, "load": 2, "page": 1, "commit": 4, "renew": 2}


def strike(
    proxy: Proxy,
    step: str,
    place: str,
    chance: random.Random,
    then: Callable[[], object] | None = None,
) -> Fault:
    """Arm a fault at some time that a processor comes to the step."""

    def is_it(command: Command) -> bool:
        return step_of(command) == step

    part, skip = PLACES[place](chance), chance.randrange(TIMES[step])
    if part is None:
        return proxy.cut_after(0, once_seen=is_it, skip=skip, then=then)
    return proxy.break_off(part, once_seen=is_it, skip=skip, then=then)
