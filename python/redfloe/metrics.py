"""Metrics for Prometheus: of streams and groups from outside, of workers and producers from inside.

Needs the extra ``metrics``: ``pip install 'redfloe[metrics]'``. Both are collectors of
``prometheus_client``: register them, and serve the registry as you serve your other metrics.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

import polars as pl
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from redfloe import _core
from redfloe._administration.listing import list_groups, list_streams
from redfloe._administration.looking import consumer_info
from redfloe._api import AsyncStreamProducer, StreamConsumer, StreamProducer
from redfloe._errors import NoGroupError, RedfloeError
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from redfloe._consuming.stats import ConsumerStats
    from redfloe._core import RedisConnection

__all__ = ["StreamCollector", "WorkerCollector"]

_LOGGER = logging.getLogger(__name__)

_STREAM, _GROUP = ["stream"], ["stream", "group"]
_CONSUMER = ["stream", "group", "consumer"]

#: Of `list_streams`: the metric, as redis_exporter has it, its text, and its column.
_OF_STREAMS = {
    "redis_stream_length": ("Entries of the stream", "length"),
    "redis_stream_groups": ("Consumer groups of the stream", "groups"),
    "redis_stream_memory_bytes": ("Bytes that the stream takes, estimated", "memory"),
}
_OF_GROUPS = {
    "redis_stream_group_consumers": ("Consumers of the group", "consumers"),
    "redis_stream_group_messages_pending": ("Entries delivered and not acknowledged", "pending"),
    "redis_stream_group_lag": ("Entries that wait to be delivered", "lag"),
    "redis_stream_group_lag_seconds": ("How long the oldest of them has waited", "lag_time"),
}
_OF_CONSUMERS = {
    "redis_stream_group_consumer_messages_pending": ("Entries not acknowledged", "pending"),
    "redis_stream_group_consumer_idle_seconds": ("Since it last asked for entries", "idle"),
}


class StreamCollector(Collector):
    """Metrics of a server's streams and groups, which is asked whenever they are collected.

    The names are those of redis_exporter where it has them. What the server does not know, such as
    the lag after entries were deleted, is absent and not zero; ``redis_stream_group_lag_seconds``
    is always there. Where the server cannot be reached, or refuses, ``redis_up`` is 0 and nothing
    else is there; the logger ``redfloe.metrics`` has a warning that says why.

    Parameters
    ----------
    url : str or RedisConnection
        As for `redfloe.read_stream`.
    patterns : sequence of str or bytes, default ("*",)
        Only streams whose key matches one of these, as for `redfloe.list_streams`.
    consumers : bool, default False
        Series for each consumer too. Consumers whose names are those of pods become many. A stream
        or group whose name is not UTF-8 has none.

    Examples
    --------
    >>> import redfloe
    >>> from prometheus_client import CollectorRegistry, generate_latest
    >>> from redfloe.metrics import StreamCollector
    >>> registry = CollectorRegistry()
    >>> registry.register(StreamCollector(url, ["events"]))
    >>> print(registry.get_sample_value("redis_stream_length", {"stream": "events"}))
    2.0
    """

    def __init__(
        self,
        url: str | RedisConnection,
        patterns: Sequence[str | bytes] = ("*",),
        *,
        consumers: bool = False,
    ) -> None:
        self._url = url = _core.connect(url)
        _core.check_connection(url)
        self._patterns = [patterns] if isinstance(patterns, str | bytes) else list(patterns)
        if not self._patterns:
            msg = 'patterns must name at least one; "*" is for all streams'
            raise ValueError(msg)
        self._consumers = consumers

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: to be registered takes no server."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Ask the server, and give a family of samples for each metric."""
        try:
            families = [*self._families()]
        except RedfloeError as error:
            _LOGGER.warning("no metrics of streams: %s", error)
            families = []
        yield GaugeMetricFamily("redis_up", "Whether the server told", value=bool(families))
        yield from families

    def _families(self) -> Iterator[Metric]:
        streams = self._listed(list_streams, ["stream"])
        yield from _gauges(_OF_STREAMS, _STREAM, streams)
        added = CounterMetricFamily(
            "redis_stream_entries_added", "Entries that the stream ever had", labels=_STREAM
        )
        for row in streams.drop_nulls("entries_added").iter_rows(named=True):
            added.add_metric([row["stream"]], float(row["entries_added"]))
        yield added
        groups = self._listed(list_groups, ["stream", "group"])
        yield from _gauges(_OF_GROUPS, _GROUP, groups)
        if self._consumers:
            yield from _gauges(_OF_CONSUMERS, _CONSUMER, self._listed_consumers(groups))

    def _listed(self, listing: Any, key: list[str]) -> pl.DataFrame:
        frames: list[pl.DataFrame] = [listing(self._url, one) for one in self._patterns]
        return pl.concat(frames).unique(key, maintain_order=True)

    def _listed_consumers(self, groups: pl.DataFrame) -> pl.DataFrame:
        found = []
        for stream, group in groups.select("stream", "group").iter_rows():
            try:
                consumers = consumer_info(self._url, stream, group)
            except NoGroupError:  # it is gone meanwhile, or its name is not UTF-8
                continue
            found.append(
                consumers.select(
                    pl.lit(stream).alias("stream"),
                    pl.lit(group).alias("group"),
                    pl.col("name").alias("consumer"),
                    "pending",
                    "idle",
                )
            )
        return pl.concat(found) if found else pl.DataFrame()


def _gauges(
    metrics: dict[str, tuple[str, str]], labels: list[str], frame: pl.DataFrame
) -> Iterator[Metric]:
    for name, (text, column) in metrics.items():
        family = GaugeMetricFamily(name, text, labels=labels)
        if column in frame.columns:
            for *names, value in frame.select(*labels, column).drop_nulls(column).iter_rows():
                seconds = value.total_seconds() if hasattr(value, "total_seconds") else value
                family.add_metric(names, float(seconds))
        yield family


#: Of `StreamConsumer.stats`.
_OF_WORKERS = {
    "batches": "Batches handed out",
    "entries": "Entries handed out",
    "bytes": "Bytes of the server's replies handed out",
    "acknowledged": "Entries acknowledged",
    "reclaimed": "Entries taken over from other consumers",
    "dead_lettered": "Entries moved to the dead-letter stream",
    "deleted": "Pending entries that had been deleted from the stream",
}


class WorkerCollector(Collector):
    """Metrics of the workers and producers of this process.

    It holds none of them: one that is gone is counted no more.

    Parameters
    ----------
    registry : prometheus_client.CollectorRegistry, optional
        Where to register it; by default the registry of ``prometheus_client``. None leaves that to
        you.

    Examples
    --------
    >>> import redfloe
    >>> from prometheus_client import CollectorRegistry
    >>> from redfloe.metrics import WorkerCollector
    >>> registry = CollectorRegistry()
    >>> metrics = WorkerCollector(registry)
    >>> consumer = redfloe.StreamConsumer(
    ...     url, "events", "billing", "worker-1", on_idle="stop", block_ms=1
    ... )
    >>> metrics.watch(consumer)
    >>> consumer.run(lambda batch: None)
    >>> labels = {"stream": "events", "group": "billing", "consumer": "worker-1"}
    >>> registry.get_sample_value("redfloe_consumer_acknowledged_total", labels)
    2.0
    """

    def __init__(self, registry: CollectorRegistry | None = REGISTRY) -> None:
        self._consumers: weakref.WeakSet[StreamConsumer] = weakref.WeakSet()
        self._producers: weakref.WeakSet[StreamProducer] = weakref.WeakSet()
        if registry is not None:
            registry.register(self)

    def watch(self, *watched: StreamConsumer | StreamProducer | AsyncStreamProducer) -> None:
        """Count what these do, from now on and what they have done."""
        given: tuple[object, ...] = watched
        for one in given:
            match one:
                case StreamConsumer():
                    self._consumers.add(one)
                case StreamProducer():
                    self._producers.add(one)
                case AsyncStreamProducer():
                    self._producers.add(one._producer)
                case _:
                    msg = f"a {type(one).__name__} has no metrics; watch workers and producers"
                    raise TypeError(msg)

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give a family of samples for each metric."""
        workers = [
            (tuple(name or "" for name in one._where.values()), stats)
            for one in self._consumers
            if (stats := _stats_of(one)) is not None
        ]
        for name, text in _OF_WORKERS.items():
            family = CounterMetricFamily(f"redfloe_consumer_{name}", text, labels=_CONSUMER)
            for where, value in _summed((where, getattr(stats, name)) for where, stats in workers):
                family.add_metric(where, float(value))
            yield family
        lag = GaugeMetricFamily(
            "redfloe_consumer_group_lag", "Entries the group had still to deliver", labels=_CONSUMER
        )
        # Workers of the same names look at the same group.
        latest = {where: stats.lag for where, stats in workers if stats.lag is not None}
        for where, entries in latest.items():
            lag.add_metric(where, float(entries))
        yield lag
        rows = CounterMetricFamily(
            "redfloe_producer_rows_written", "Entries that are in", labels=_STREAM
        )
        written = (((readable(one._stream or b""),), one.rows_written) for one in self._producers)
        for where, value in _summed(written):
            rows.add_metric(where, float(value))
        yield rows


def _stats_of(worker: StreamConsumer) -> ConsumerStats | None:
    try:
        return worker.stats
    except RedfloeError:  # in a forked child, whose parent was using it
        return None


def _summed(values: Iterable[tuple[Sequence[str], int]]) -> Iterator[tuple[Sequence[str], int]]:
    """Add up what has the same labels: a registry takes each once."""
    sums: dict[tuple[str, ...], int] = {}
    for where, value in values:
        sums[tuple(where)] = sums.get(tuple(where), 0) + value
    return iter(sums.items())
