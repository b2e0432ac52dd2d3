"""Which Polars the tests run with: `make test-oldest` runs them with the oldest that is allowed."""

from __future__ import annotations

import polars as pl
import pytest

POLARS = tuple(int(part) for part in pl.__version__.split(".")[:2])
#: How a read fails within Polars: an older one panics, and its panic is no Exception.
FAILURES = (Exception,) if POLARS >= (2, 1) else (Exception, pl.exceptions.PanicException)

needs_batches = pytest.mark.skipif(
    not hasattr(pl.LazyFrame, "collect_batches"),
    reason="sink_stream and LazyFrame.collect_batches need Polars 1.34",
)
