"""Defects of other libraries: the guide tells of them, and nobody is sorry when they are mended.

Only what raises a clean exception. What may crash another library is no test: it would take the
test process with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def defect_of(error: type[Exception], match: str) -> Iterator[None]:
    """Run a block that another library may refuse with this error, or do right.

    The block asserts the right outcome. Any other error, and any other outcome, fails the test.
    """
    try:
        yield
    except error as refused:
        assert re.search(match, str(refused)), f"another defect than {match!r}: {refused}"  # noqa: PT017
