"""Ray Data and Daft by the same names, for tests of what both do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import redis

import redfloe


class Engine(Protocol):
    """What tests ask of an engine; a dataset is the engine's."""

    #: How it calls the number of parts.
    parts: str

    @property
    def module(self) -> Any:
        """Its module in redfloe."""

    def columns(self, dataset: Any) -> list[str]: ...
    def col(self, name: str) -> Any: ...
    def of(self, frame: pl.DataFrame) -> Any: ...
    def frame(self, dataset: Any) -> pl.DataFrame: ...
    def count(self, dataset: Any) -> int: ...
    def where(self, dataset: Any, condition: Any) -> Any: ...
    def select(self, dataset: Any, *names: str) -> Any: ...
    def limit(self, dataset: Any, rows: int) -> Any: ...
    def plan(self, dataset: Any) -> str: ...


class Ray:
    parts = "override_num_blocks"

    @property
    def module(self) -> Any:
        from redfloe import ray

        return ray

    def col(self, name: str) -> Any:
        from ray.data.expressions import col

        return col(name)

    def columns(self, dataset: Any) -> list[str]:
        return [*dataset.schema().names]

    def of(self, frame: pl.DataFrame) -> Any:
        import ray.data

        return ray.data.from_arrow(_plain(frame))

    def frame(self, dataset: Any) -> pl.DataFrame:
        import pyarrow as pa
        import ray

        tables = ray.get(dataset.to_arrow_refs())
        if not tables:  # which Ray leaves out where they have no rows
            schema = dataset.schema()
            tables = [pa.schema(zip(schema.names, schema.types, strict=True)).empty_table()]
        return pl.concat([pl.DataFrame(table) for table in tables])

    def count(self, dataset: Any) -> int:
        rows: int = dataset.count()
        return rows

    def where(self, dataset: Any, condition: Any) -> Any:
        return dataset.filter(expr=condition)

    def select(self, dataset: Any, *names: str) -> Any:
        return dataset.select_columns([*names])

    def limit(self, dataset: Any, rows: int) -> Any:
        return dataset.limit(rows)

    def plan(self, dataset: Any) -> str:
        dataset.explain()
        return f"{dataset!r} {dataset.stats()}"


class Daft:
    parts = "partitions"

    @property
    def module(self) -> Any:
        from redfloe import daft

        return daft

    def col(self, name: str) -> Any:
        import daft

        return daft.col(name)

    def columns(self, dataset: Any) -> list[str]:
        return [*dataset.column_names]

    def of(self, frame: pl.DataFrame) -> Any:
        import daft

        return daft.from_arrow(_plain(frame))

    def frame(self, dataset: Any) -> pl.DataFrame:
        return pl.DataFrame(dataset.to_arrow())

    def count(self, dataset: Any) -> int:
        rows: int = dataset.count_rows()
        return rows

    def where(self, dataset: Any, condition: Any) -> Any:
        return dataset.where(condition)

    def select(self, dataset: Any, *names: str) -> Any:
        return dataset.select(*names)

    def limit(self, dataset: Any, rows: int) -> Any:
        return dataset.limit(rows)

    def plan(self, dataset: Any) -> str:
        dataset.explain(show_all=True)
        return repr(dataset)


ENGINES: dict[str, Engine] = {"ray": Ray(), "daft": Daft()}


def _plain(frame: pl.DataFrame) -> Any:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


@contextmanager
def running_ray() -> Iterator[None]:
    """Two cores, no web server, quiet."""
    import ray
    import ray.data

    # The workers need the package that is tested.
    package = str(Path(redfloe.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def sent(client: redis.Redis, read: Callable[[], Any]) -> int:
    """Say how many bytes the server sent meanwhile."""
    before = _sent(client)
    read()
    return _sent(client) - before


def _sent(client: redis.Redis) -> int:
    total: int = client.info("stats")["total_net_output_bytes"]
    return total


def counted(client: redis.Redis, command: str) -> int:
    """Say how often the server has run a command."""
    calls: int = client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]
    return calls
