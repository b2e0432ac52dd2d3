"""A password that must never be seen."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import pytest

import redfloe

E = TypeVar("E", bound=BaseException)

PACKAGE = Path(redfloe.__file__).parent

#: One that a URL must encode, so that both spellings can be looked for.
PASSWORD = "xyzzy/7291@plugh"
QUOTED = quote(PASSWORD, safe="")


def with_password(url: str, user: str = "") -> str:
    """Give the URL of a server without a password one with it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}:{QUOTED}@{rest}"


@contextmanager
def raises_discreetly(kind: type[E]) -> Iterator[pytest.ExceptionInfo[E]]:
    """Expect exactly that exception, without the password in whatever a log could show of it."""
    with pytest.raises(kind) as raised:
        yield raised
    assert type(raised.value) is kind
    assert_discreet(raised.value)


def assert_discreet(error: BaseException) -> None:
    """Fail if the password shows, or as much of it as a shortened quotation would leave.

    Tools that report errors (rich, Sentry) show the local variables of every frame that the
    exception has passed. Those of the package are looked at, too.
    """
    shown = [str(error), repr(error), *traceback.format_exception(error)]
    shown += [str(part) for part in error.args]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if PACKAGE in Path(frame.f_code.co_filename).parents:
            shown += [_shown(value) for value in frame.f_locals.values()]
    for text in shown:
        for secret in (PASSWORD, QUOTED, PASSWORD[:5], PASSWORD[-5:]):
            assert secret not in text


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001  # an object that is not made yet
        return repr(error)
