"""`archive` and streams that are trimmed: by itself, or by others before it has read them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import redis

from redfloe import DataLossError
from redfloe._lake.folder import Folder
from redfloe._lake.job import Job
from support.archives import archive, archive_in, files, numbers
from support.consumers import World
from support.server import Server
from support.streams import add_numbers
from support.timing import later


class TestTrimming:
    def test_is_behind_what_is_archived(
        self, server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        """By whole nodes of a hundred entries; what is old and not archived stays."""
        add_numbers(client, "s", 1000)
        client.execute_command("XGROUP", "CREATE", "s", "g", "0")
        archive(server.url, tmp_path, trim_after="7d", until="555-0", max_rows=250)
        assert client.xlen("s") == 500
        first: Any = client.xrange("s", count=1)
        assert first[0][0] == b"501-0"
        result = archive(server.url, tmp_path, trim_after=dt.timedelta(days=7))
        assert result.trimmed == 1000 - 500 - client.xlen("s") > 0
        assert numbers(tmp_path) == [*range(1, 1001)]

    def test_leaves_what_is_new(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        for n in range(250):
            client.xadd("s", {"n": n})
        assert archive(any_server.url, tmp_path, trim_after="1h").trimmed == 0
        assert archive(any_server.url, tmp_path, trim_after="1ms").trimmed == 200

    def test_leaves_a_stream_that_was_begun_anew(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        """Of which nothing is archived, although its entries are older than the archive's end."""
        add_numbers(client, "s", 1002, first=1000)
        archive(any_server.url, tmp_path)
        client.delete("s")
        add_numbers(client, "s", 500)
        result = archive(any_server.url, tmp_path, trim_after="1d", on_data_loss="continue")
        assert result.trimmed == 0
        assert client.xlen("s") == 500

    def test_keeps_the_last_entry(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        """So that the next run can tell whether the stream is the one that it has archived."""
        client.config_set("stream-node-max-entries", 1)
        try:
            add_numbers(client, "s", 5)
            assert archive(any_server.url, tmp_path, trim_after="1s").trimmed == 4
            assert client.xlen("s") == 1
        finally:
            client.config_set("stream-node-max-entries", 100)


class TestLoss:
    def test_a_stream_that_was_trimmed_past_the_archive(
        self, any_server: Server, client: redis.Redis, tmp_path: Path, world: World
    ) -> None:
        add_numbers(client, "s", 3)
        archive_in(world, any_server.url, tmp_path)
        add_numbers(client, "s", 9, first=4)
        client.xtrim("s", minid="6-0", approximate=False)
        with pytest.raises(DataLossError, match="trimmed past 3-0"):
            archive_in(world, any_server.url, tmp_path)
        assert numbers(tmp_path) == [1, 2, 3]
        archive_in(world, any_server.url, tmp_path, on_data_loss="continue")
        assert numbers(tmp_path) == [1, 2, 3, 6, 7, 8, 9]

    @pytest.mark.parametrize("was_read", [True, False])
    def test_one_that_is_trimmed_while_it_is_archived(
        self,
        any_server: Server,
        client: redis.Redis,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        was_read: bool,
    ) -> None:
        """What was read ahead of time is archived, if it was trimmed since; no more than that."""
        add_numbers(client, "s", 9 if was_read else 3)
        commit = Folder.commit

        def then_trim(*arguments: Any) -> None:
            commit(*arguments)
            if len(files(tmp_path)) == 1:
                if not was_read:
                    add_numbers(client, "s", 9, first=4)
                client.xtrim("s", minid="8-0", approximate=False)

        monkeypatch.setattr(Folder, "commit", then_trim)
        if was_read:
            with pytest.raises(DataLossError, match="trimmed past 6-0"):
                archive(any_server.url, tmp_path, max_rows=3)
            assert numbers(tmp_path) == [*range(1, 8)]
            archive(any_server.url, tmp_path, on_data_loss="continue")
            assert numbers(tmp_path) == [*range(1, 10)]
        else:
            with pytest.raises(DataLossError, match="trimmed past 3-0"):
                archive(any_server.url, tmp_path, until="9-0", every="1ms")
            assert numbers(tmp_path) == [1, 2, 3]

    @pytest.mark.parametrize("until", ["now", f"{60_000}-0"])
    def test_one_that_is_trimmed_faster_than_it_is_archived(
        self,
        redis70: Server,
        client: redis.Redis,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        until: str,
    ) -> None:
        """The gap is within a batch: after those of its rows that were read ahead of time."""
        add_numbers(client, "s", 60_000)
        commit = Folder.commit

        def then_trim(*arguments: Any) -> None:
            commit(*arguments)
            client.xtrim("s", minid="59990-0", approximate=False)

        monkeypatch.setattr(Folder, "commit", then_trim)
        with pytest.raises(DataLossError, match="trimmed past 21000-0"):
            archive(redis70.url, tmp_path, until=until, max_rows=21_000)
        found = numbers(tmp_path)
        assert found == [*range(1, len(found) + 1)]

    def test_what_is_there_and_trimmed_before_it_is_read(
        self,
        redis70: Server,
        client: redis.Redis,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also where nothing is left to tell it by."""
        add_numbers(client, "s", 3)
        archive(redis70.url, tmp_path)
        add_numbers(client, "s", 9, first=4)
        bounded = Job._bounded

        async def then_trim(*arguments: Any) -> Any:
            client.xtrim("s", maxlen=0, approximate=False)
            return await bounded(*arguments)

        monkeypatch.setattr(Job, "_bounded", then_trim)
        with pytest.raises(DataLossError, match=r"trimmed past 3-0.*it is empty now"):
            archive(redis70.url, tmp_path)

    def test_entries_that_come_and_are_trimmed_while_it_waits(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        add_numbers(client, "s", 3)

        def burst() -> None:
            with any_server.client() as other, other.pipeline(transaction=True) as pipeline:
                for n in range(10, 300):
                    pipeline.xadd("s", {"n": n}, f"{n}-0")
                pipeline.xtrim("s", maxlen=10, approximate=False)
                pipeline.execute()

        archive(any_server.url, tmp_path)
        with later(0.3, burst), pytest.raises(DataLossError, match="trimmed past 3-0"):
            archive(any_server.url, tmp_path, until="299-0", every="1ms")
        assert numbers(tmp_path) == [1, 2, 3]

    def test_a_server_that_begins_empty_while_it_waits(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        add_numbers(client, "s", 3)
        archive(any_server.url, tmp_path)

        def begin_anew() -> None:
            with any_server.client() as other:
                other.flushall()
                other.xadd("s", {"n": 50}, "50-0")

        with later(0.3, begin_anew), pytest.raises(DataLossError, match=r"past 3-0|lost the end"):
            archive(any_server.url, tmp_path, until="50-0", every="1ms")
        assert numbers(tmp_path) == [1, 2, 3]

    @pytest.mark.parametrize("until", ["now", "4-0"])
    def test_a_server_that_has_lost_the_end_and_gone_on(
        self, redis70: Server, client: redis.Redis, tmp_path: Path, until: str
    ) -> None:
        """As after a failover; what else it has had instead of that, nobody knows."""
        add_numbers(client, "s", 3)
        archive(redis70.url, tmp_path)
        client.delete("s")
        add_numbers(client, "s", 2)
        add_numbers(client, "s", 4, first=4)
        with pytest.raises(DataLossError, match="has gone on without it: 3-0 has been read and is"):
            archive(redis70.url, tmp_path, until=until)
        assert archive(redis70.url, tmp_path, until=until, on_data_loss="continue").entries == 1

    def test_another_stream_of_the_name(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        add_numbers(client, "s", 3)
        archive(any_server.url, tmp_path)
        client.delete("s")
        add_numbers(client, "s", 2)
        with pytest.raises(DataLossError, match="created again"):
            archive(any_server.url, tmp_path)
        with pytest.raises(
            DataLossError, match="was deleted and written again, with smaller IDs: archive it to"
        ):
            archive(any_server.url, tmp_path, on_data_loss="continue", until="4-0", every="1ms")
