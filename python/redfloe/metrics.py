"""Metrics for Prometheus: of streams and groups from outside, of workers and producers from inside.

Needs the extra ``metrics``: ``pip install 'redfloe[metrics]'``. Both are collectors of
``prometheus_client``: register them, and serve the registry as you serve your other metrics.
"""

from __future__ import annotations

import datetime as dt
import logging
import select
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

import polars as pl
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from redfloe import _core
from redfloe._api import (
    AsyncStreamProducer,
    StreamConsumer,
    StreamProcessor,
    StreamProducer,
)
from redfloe._checks import as_key
from redfloe._errors import NoGroupError, RedfloeError, RedisTimeoutError
from redfloe._log import log_events
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from redfloe._consuming.stats import ConsumerStats
    from redfloe._core import RedisConnection
    from redfloe._processing.stats import ProcessorStats
    from redfloe.messages import App

    _Family = CounterMetricFamily | GaugeMetricFamily

T = TypeVar("T")

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
_COUNTED = {"redis_stream_entries_added": ("Entries that the stream ever had", "entries_added")}
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

#: Of `processor_info`.
_OF_PROCESSORS = {
    "redis_stream_processor_held": ("Whether somebody runs the processor", "held"),
    "redis_stream_processor_epoch": ("How often the lane was acquired", "epoch"),
    "redis_stream_processor_lag": ("Entries that wait, where that is known", "lag"),
    "redis_stream_processor_lag_seconds": ("How long the oldest of them has waited", "lag_time"),
    "redis_stream_processor_batch_seconds": ("How long the last batch took", "batch_time"),
    "redis_stream_processor_last_commit_timestamp_seconds": ("Of the last commit", "committed_at"),
}
_OF_COMMITS = {
    "redis_stream_processor_commits": ("Commits of the lane", "commits"),
    "redis_stream_processor_entries": ("Entries that they had", "entries"),
}
_LANE = ["stream", "processor", "group", "consumer"]

_CONSUMERS = (_OF_CONSUMERS, _CONSUMER)
_PROCESSORS = ({**_OF_PROCESSORS, **_OF_COMMITS}, _LANE)

Rows = list[dict[str, Any]]


class StreamCollector(Collector):
    """Metrics of a server's streams and groups, which is asked whenever they are collected.

    The names are those of redis_exporter where it has them. What the server does not know, such as
    the lag after entries were deleted, is absent and not zero; ``redis_stream_group_lag_seconds``
    is always there. Where the server cannot be reached, or refuses, ``redis_up`` is 0 and nothing
    else is there; the logger ``redfloe.metrics`` has a warning that says why.

    A registry takes one: a second one raises its ``ValueError`` (duplicated timeseries). Pass
    several servers to one collector instead.

    Parameters
    ----------
    url : str, RedisConnection or mapping of str to one of these
        As for `redfloe.read_stream`. A mapping is of several servers by their names, which all
        metrics then have as the label ``server``. They are asked at the same time.
    patterns : sequence of str or bytes, default ("*",)
        Only streams whose key matches one of these, as for `redfloe.list_streams`.
    consumers : bool, default False
        Series for each consumer too. Consumers whose names are those of pods become many. A stream
        or group whose name is not UTF-8 has none.
    processors : bool, default False
        Series for each lane of a processor too, as `redfloe.processor_info` gives them, which takes
        another SCAN and scripts. ``group`` and ``consumer`` are empty but for members of a group.
    timeout : float or None, default 8.0
        Seconds that a server has to answer everything, with all retries; after that ``redis_up`` is
        0. Prometheus gives up after 10 by default. None leaves it to the timeouts and retries of
        the `RedisConnection`, which apply in any case.

    Raises
    ------
    ValueError
        There is no pattern or no server, or `timeout` is not above zero.

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
        url: str | RedisConnection | Mapping[str, str | RedisConnection],
        patterns: Sequence[str | bytes] = ("*",),
        *,
        consumers: bool = False,
        processors: bool = False,
        timeout: float | None = 8.0,
    ) -> None:
        self._label = ["server"] if isinstance(url, Mapping) else []
        servers = url if isinstance(url, Mapping) else {"": url}
        self._servers = {name: _core.connect(one) for name, one in servers.items()}
        for one in self._servers.values():
            _core.check_connection(one)
        given = [patterns] if isinstance(patterns, str | bytes) else list(patterns)
        self._patterns = [as_key(one, "pattern") for one in given]
        if not self._patterns:
            msg = 'patterns must name at least one; "*" is for all streams'
            raise ValueError(msg)
        if not self._servers:
            msg = "url must name at least one server"
            raise ValueError(msg)
        if timeout is not None and not timeout > 0:
            msg = f"timeout must be above 0 seconds, not {timeout!r}; None is for no limit"
            raise ValueError(msg)
        self._consumers, self._processors, self._timeout = consumers, processors, timeout

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that a registry refuses a second collector of them."""
        up, families = self._empty()
        return [up, *families.values()]

    def collect(self) -> Iterator[Metric]:
        """Ask the servers, and give a family of samples for each metric."""
        up, families = self._empty()
        if len(self._servers) == 1:
            answers = [*map(self._answer, self._servers)]
        else:
            with ThreadPoolExecutor(len(self._servers)) as threads:
                answers = [*threads.map(self._answer, self._servers)]
        for server, answer in zip(self._servers, answers, strict=True):
            names = [server] if self._label else []
            up.add_metric(names, float(answer is not None))
            for (metrics, labels), rows in zip(self._kinds(), answer or (), strict=False):
                for name, (_, column) in metrics.items():
                    for row in rows:
                        if row[column] is not None:
                            series = names + [row[label] or "" for label in labels]
                            families[name].add_metric(series, _number(row[column]))
        yield up
        if any(answer is not None for answer in answers):
            yield from families.values()

    def _kinds(self) -> list[tuple[dict[str, tuple[str, str]], list[str]]]:
        kinds = [({**_OF_STREAMS, **_COUNTED}, _STREAM), (_OF_GROUPS, _GROUP)]
        kinds += [_CONSUMERS] if self._consumers else []
        return [*kinds, _PROCESSORS] if self._processors else kinds

    def _empty(self) -> tuple[GaugeMetricFamily, dict[str, _Family]]:
        """Make the families, without samples."""
        up = GaugeMetricFamily("redis_up", "Whether the server told", labels=self._label)
        families: dict[str, _Family] = {}
        for metrics, labels in self._kinds():
            for name, (text, _) in metrics.items():
                is_counter = name in _COUNTED or name in _OF_COMMITS
                kind = CounterMetricFamily if is_counter else GaugeMetricFamily
                families[name] = kind(name, text, labels=self._label + labels)
        return up, families

    def _answer(self, server: str) -> list[Rows] | None:
        """Give the rows of each kind of series; None where it did not answer."""
        end = None if self._timeout is None else time.monotonic() + self._timeout
        try:
            return self._ask(self._servers[server], end)
        except RedfloeError as error:
            where = f" of {server}" if server else ""
            _LOGGER.warning("no metrics of streams%s: %s", where, error)
            return None

    def _ask(self, url: RedisConnection, end: float | None) -> list[Rows]:
        listed = [
            _rows(_core.list_streams(url, pattern), end, ("stream", *_columns(_OF_STREAMS)))
            for pattern in self._patterns
        ]
        grouped = [
            _rows(_core.list_groups(url, pattern), end, (*_GROUP, *_columns(_OF_GROUPS)))
            for pattern in self._patterns
        ]
        # Several patterns may match a stream.
        streams = {row["stream"]: row for rows in listed for row in rows}
        groups = {(row["stream"], row["group"]): row for rows in grouped for row in rows}
        consumers: Rows = []
        for stream, group in groups if self._consumers else ():
            asking = _core.consumer_info(url, stream.encode(), group.encode())
            try:
                found = _rows(asking, end, ("name", *_columns(_OF_CONSUMERS)))
            except NoGroupError:  # it is gone meanwhile, or its name is not UTF-8
                continue
            where = {"stream": stream, "group": group}
            consumers += [{**row, **where, "consumer": row["name"]} for row in found]
        answers: list[Rows] = [[*streams.values()], [*groups.values()]]
        answers += [consumers] if self._consumers else []
        if self._processors:
            columns = (*_LANE, *_columns(_OF_PROCESSORS), *_columns(_OF_COMMITS))
            looked = [
                _rows(_core.processor_info(url, None, pattern, None), end, columns)
                for pattern in self._patterns
            ]
            lanes = {tuple(row[label] for label in _LANE): row for rows in looked for row in rows}
            answers.append([*lanes.values()])
        return answers


def _columns(metrics: dict[str, tuple[str, str]]) -> list[str]:
    more = _COUNTED if metrics is _OF_STREAMS else {}
    return [column for _, column in (*metrics.values(), *more.values())]


def _rows(
    asking: _core.Operation[_core.RecordBatch], end: float | None, columns: Sequence[str]
) -> Rows:
    """Wait for a listing until then, and give these columns of its rows.

    Without the operations of Polars that use its threads: a forked child, such as a worker of
    gunicorn, has none of them and would wait for ever.
    """
    frame = pl.DataFrame(_waited(asking, end))
    values = [frame[column].to_list() for column in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _waited(asking: _core.Operation[_core.RecordBatch], end: float | None) -> _core.RecordBatch:
    if end is None:
        return asking.wait()
    completions, task = _core.Completions(), asking.start()
    poll = select.poll()  # select knows only the first thousand descriptors
    poll.register(completions, select.POLLIN)
    try:
        completions.watch(task)
        while not completions.take():
            left = end - time.monotonic()
            if left <= 0:
                msg = "the server did not answer everything in time"
                raise RedisTimeoutError(msg)
            poll.poll(left * 1_000)
            log_events()
    except BaseException:
        task.cancel()
        raise
    return task.result()


def _number(value: Any) -> float:
    match value:
        case dt.timedelta():
            return value.total_seconds()
        case dt.datetime():
            return value.timestamp()
    return float(value)


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
#: Of `StreamProcessor.stats`.
_OF_RUNS = {
    "commits": "Commits that are in",
    "entries": "Entries that they had",
    "dead_lettered": "Entries moved to the dead-letter stream",
    "bytes": "Bytes that they wrote",
    "commit_seconds": "How long they took",
}


class WorkerCollector(Collector):
    """Metrics of the workers, processors and producers of this process.

    It holds none of them: one that is gone is counted no more.

    Parameters
    ----------
    registry : prometheus_client.CollectorRegistry, optional
        Where to register it; by default the registry of ``prometheus_client``. None leaves that to
        you.

    Raises
    ------
    ValueError
        The registry has a `WorkerCollector` already.

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
        self._consumers: set[weakref.ref[StreamConsumer]] = set()
        self._producers: set[weakref.ref[StreamProducer]] = set()
        self._processors: set[weakref.ref[StreamProcessor]] = set()
        self._apps: set[weakref.ref[App]] = set()
        if registry is not None:
            try:
                registry.register(self)
            except ValueError as error:
                msg = (
                    "the registry has a WorkerCollector already: let that one watch these too, or "
                    "pass another registry"
                )
                raise ValueError(msg) from error

    def watch(
        self,
        *watched: StreamConsumer | StreamProcessor | StreamProducer | AsyncStreamProducer | App,
    ) -> None:
        """Count what these do, from now on and what they have done; of an app what it runs."""
        given: tuple[object, ...] = watched
        for one in given:
            match one:
                case StreamConsumer():
                    self._consumers.add(weakref.ref(one, self._consumers.discard))
                case StreamProcessor():
                    self._processors.add(weakref.ref(one, self._processors.discard))
                case StreamProducer():
                    self._producers.add(weakref.ref(one, self._producers.discard))
                case AsyncStreamProducer():
                    producer = one._producer
                    self._producers.add(weakref.ref(producer, self._producers.discard))
                case object(consumers=Mapping()):
                    app = cast("App", one)
                    self._apps.add(weakref.ref(app, self._apps.discard))
                case _:
                    msg = (
                        f"a {type(one).__name__} has no metrics; watch workers, processors and "
                        "producers"
                    )
                    raise TypeError(msg)

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that a registry refuses a second collector of them."""
        return self._families([], [], [])

    def collect(self) -> Iterator[Metric]:
        """Give a family of samples for each metric."""
        workers = [
            (tuple(name or "" for name in one._where.values()), stats)
            for one in (*_all(self._consumers), *self._of_apps())
            if (stats := _stats_of(one)) is not None
        ]
        written = [
            (readable(one._stream or b""), rows)
            for one in _all(self._producers)
            if (rows := _rows_of(one)) is not None
        ]
        runs = [
            (tuple(name or "" for name in one._where.values()), one.stats)
            for one in (*_all(self._processors), *self._processors_of_apps())
        ]
        return self._families(workers, runs, written)

    def _of_apps(self) -> Iterator[StreamConsumer]:
        for app in _all(self._apps):
            yield from app.consumers.values()

    def _processors_of_apps(self) -> Iterator[StreamProcessor]:
        for app in _all(self._apps):
            yield from app.processors.values()

    def _families(
        self,
        workers: list[tuple[tuple[str, ...], ConsumerStats]],
        runs: list[tuple[tuple[str, ...], ProcessorStats]],
        written: list[tuple[str, int]],
    ) -> Iterator[Metric]:
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
        for name, text in _OF_RUNS.items():
            family = CounterMetricFamily(f"redfloe_processor_{name}", text, labels=_LANE[:2])
            for where, value in _summed((where, getattr(stats, name)) for where, stats in runs):
                family.add_metric(where, float(value))
            yield family
        rows = CounterMetricFamily(
            "redfloe_producer_rows_written", "Entries that are in", labels=_STREAM
        )
        for where, value in _summed(((stream,), number) for stream, number in written):
            rows.add_metric(where, float(value))
        yield rows


def _stats_of(worker: StreamConsumer) -> ConsumerStats | None:
    try:
        return worker.stats
    except RedfloeError:  # in a forked child, whose parent was using it
        return None


def _rows_of(producer: StreamProducer) -> int | None:
    try:
        return producer.rows_written
    except RuntimeError:  # its parent's, in a forked child
        return None


def _all(watched: set[weakref.ref[T]]) -> list[T]:
    """List those that are still there."""
    # A list of a set is made in one step of the interpreter, whatever other threads add or drop. A
    # WeakSet is gone through in many, and who adds to it all the time would never let that end.
    listed = [*watched]
    return [one for found in listed if (one := found()) is not None]


def _summed(
    values: Iterable[tuple[Sequence[str], float]],
) -> Iterator[tuple[Sequence[str], float]]:
    """Add up what has the same labels: a registry takes each once."""
    sums: dict[tuple[str, ...], float] = {}
    for where, value in values:
        sums[tuple(where)] = sums.get(tuple(where), 0) + value
    return iter(sums.items())
