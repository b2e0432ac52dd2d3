"""What only Ray Data does: tasks in other processes, which may die."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import ray
import ray.data
import redis
from polars.testing import assert_frame_equal
from ray.data import Dataset
from ray.data.expressions import col

import redfloe
from redfloe.ray import read_stream, write_stream
from support.engines import ENGINES, counted
from support.secrets import PASSWORD, QUOTED
from support.server import Server
from support.streams import NUMBER, add_numbers, numbers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(120),  # to start Ray, and workers in place of killed ones, takes a while
]

#: More than one batch in each of two parts.
LAST = 220_000


def dying_at(number: int, marker: Path) -> Callable[[pa.Table], pa.Table]:
    """Give a function of batches that kills its process at a number, once."""

    # One of a module would be looked for by name, and workers do not have the tests.
    def pass_on(batch: pa.Table) -> pa.Table:
        if number in batch["n"].to_pylist() and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch

    return pass_on


def mapped(dataset: Dataset, function: Callable[[pa.Table], pa.Table]) -> Dataset:
    """Have the function called in the tasks that read."""
    return dataset.map_batches(function, batch_format="pyarrow", batch_size=None)


def test_a_worker_that_is_killed_while_it_reads(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    """Its task is retried, and reads the same entries: neither fewer nor more, though some came."""
    add_numbers(client, stream, LAST)
    dataset = read_stream(any_server.url, stream, NUMBER, override_num_blocks=2)
    add_numbers(client, stream, LAST + 10, first=LAST + 1)
    marker = tmp_path / "died"
    frame = ENGINES["ray"].frame(mapped(dataset, dying_at(LAST - 5, marker)))
    assert marker.exists()
    assert_frame_equal(frame.sort("_ts"), numbers(LAST))


def test_a_worker_that_is_killed_while_it_writes(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    """What it has written aside is not in the stream, and expires."""
    marker = tmp_path / "died"
    rows = ray.data.range(20_000, override_num_blocks=4).rename_columns({"id": "n"})
    # The last block of a task that has written the others.
    dying = mapped(rows.repartition(8), dying_at(19_990, marker))
    assert write_stream(dying, any_server.url, stream, min_rows_per_write=20_000) == 20_000
    assert marker.exists()
    written = redfloe.read_stream(any_server.url, stream, NUMBER)["n"]
    assert sorted(written.to_list()) == [*range(20_000)]
    assert all(client.pttl(key) > 0 for key in client.scan_iter() if key != stream.encode())


def test_a_stream_is_read_in_parts(any_server: Server, client: redis.Redis, stream: str) -> None:
    """As many as are asked for, or as Ray wants, which the size of the rows tells it."""
    add_numbers(client, stream, 20_000)
    dataset = read_stream(any_server.url, stream, NUMBER, override_num_blocks=5)
    assert dataset.materialize().num_blocks() == 5
    assert 1 < read_stream(any_server.url, stream, NUMBER).materialize().num_blocks() <= 8


def test_tasks_have_many_rows(any_server: Server, client: redis.Redis, stream: str) -> None:
    """Ray starts one for each block of a few hundred otherwise."""
    rows = ray.data.range(6_000, override_num_blocks=20).rename_columns({"id": "n"})
    rows = rows.materialize()
    some: dict[str, Any] = {"min_rows_per_write": 300}
    for options, tasks in (({}, 1), (some, 20)):
        before = counted(client, "persist")  # of each stream that was written aside
        write_stream(rows, any_server.url, stream, **options)
        assert counted(client, "persist") - before == tasks
    with pytest.raises(ValueError, match="min_rows_per_write"):
        write_stream(rows, any_server.url, stream, min_rows_per_write=0)


def test_plans_do_not_count(any_server: Server, client: redis.Redis, stream: str) -> None:
    """To cut a large stream takes a sample, and Ray asks for tasks at least five times."""
    add_numbers(client, stream, 20_000)
    dataset = read_stream(any_server.url, stream, NUMBER, override_num_blocks=3)
    before = counted(client, "xrange") + counted(client, "xrevrange")
    assert dataset.select_columns(["n"]).sum("n") == 20_000 * 20_001 // 2
    pages = counted(client, "xrange") + counted(client, "xrevrange") - before
    assert pages < 40


def test_no_columns(any_server: Server, client: redis.Redis, stream: str) -> None:
    """A table without columns has no rows, which `count` asks for."""
    add_numbers(client, stream, 100)
    dataset = read_stream(any_server.url, stream, NUMBER)
    assert dataset.count() == 100
    assert dataset.filter(expr=col("n") > 90).count() == 10
    assert read_stream(any_server.url, stream, {}, include_timestamp=False).count() == 100


def test_renamed_and_computed_columns(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 1_000)
    dataset = read_stream(any_server.url, stream, NUMBER)
    renamed = dataset.rename_columns({"n": "number"}).filter(
        expr=(col("_ts") <= 3) & (col("number") != 2)
    )
    assert [row["number"] for row in renamed.take_all()] == [1, 3]
    computed = dataset.filter(expr=col("_ts") > 998).with_column("m", col("n") * 2)
    assert sorted(row["m"] for row in computed.take_all()) == [1_998, 2_000]


def test_no_password_is_in_ray_s_logs(stream: str) -> None:
    with Server("redis-7.0", password=PASSWORD) as server:
        add_numbers(server.client(), stream, 10)
        url = server.url.replace(PASSWORD, QUOTED)
        dataset = read_stream(url, stream, NUMBER)
        write_stream(dataset, url, "copy")
        dates: dict[str, Any] = {"n": pl.Date}
        with pytest.raises(ray.exceptions.RayTaskError) as raised:
            read_stream(url, stream, dates).take_all()
        assert isinstance(raised.value.as_instanceof_cause(), redfloe.DecodeError)
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    assert any("ray-data" in str(path) for path in logs)
    for path in logs:
        text = path.read_text(errors="replace")
        assert PASSWORD not in text, path
        assert QUOTED not in text, path
