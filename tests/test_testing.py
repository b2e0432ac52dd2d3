"""The pytest plugin, as a user's tests have it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.timing import SLACK

pytestmark = pytest.mark.usefixtures("server_program")

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

#: The first test of each pair leaves what the second must not find.
TESTS = """\
import os
import signal
import sys

import pytest
from pydantic import BaseModel

from redfloe.messages import App, Message

ports = []


class OrderPlaced(BaseModel):
    order_id: int


def make_app(url):
    app = App(url, group="billing", dead_letter="{stream}:dead")
    producer = app.producer("paid")

    @app.on("orders", OrderPlaced)
    async def bill(event):
        producer.publish(Message("paid", {"order_id": event.order_id}))

    return app


@pytest.mark.parametrize("turn", [1, 2])
def test_app(redfloe_url, turn):
    app = make_app(redfloe_url)
    with app.producer("orders") as producer:
        producer.publish(OrderPlaced(order_id=turn))
    drained = app.drain()
    assert [one.event.order_id for one in drained.handled] == [turn]
    assert [one.payload for one in drained.published] == [{"order_id": turn}]
    assert drained.failed == []
    ports.append(redfloe_url.rpartition(":")[2])


def test_one_server_for_all(redfloe_server):
    assert {*ports} == {str(redfloe_server.port)}
    redfloe_server.stop()


def test_after_one_that_was_stopped(redfloe_server, redfloe_url):
    import redfloe

    assert redfloe_server.url == redfloe_url
    assert redfloe.read_stream(redfloe_url, "orders").is_empty()
    os.kill(redfloe_server.pid, signal.SIGKILL)
    os.waitid(os.P_PID, redfloe_server.pid, os.WEXITED | os.WNOWAIT)


def test_after_one_that_was_killed(redfloe_url):
    import redfloe

    assert redfloe.read_stream(redfloe_url, "orders").is_empty()


CHANGES = {
    "users": ["ACL SETUSER ann on >secret ~* +@all"],
    "the default user": ["ACL SETUSER default -xadd"],
    "configuration": ["CONFIG SET maxmemory-policy allkeys-lru"],
    "a password": ["CONFIG SET requirepass secret"],
    "a replica": ["REPLICAOF 127.0.0.1 1"],
    "a stopped one": [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_is_changed(redfloe_server, change):
    import redis

    with redis.Redis.from_url(redfloe_server.url) as client:
        assert client.acl_users() == ["default"]
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.xadd("orders", {"order_id": 1})
        for command in CHANGES[change]:
            client.execute_command(command)
    if not CHANGES[change]:
        redfloe_server.stop()
        redfloe_server.start()


def test_after_those_that_were_changed(redfloe_url):
    import redis

    with redis.Redis.from_url(redfloe_url) as client:
        assert client.dbsize() == 0
        assert client.acl_users() == ["default"]
"""

UNUSED = """\
import sys


def test_nothing_is_imported_or_started():
    loaded = {name for name in sys.modules if name.split(".")[0] in ("redfloe", "polars")}
    assert loaded == {"redfloe", "redfloe.testing"}
"""

ARGS = """\
import pytest
import redfloe


@pytest.fixture(scope="session")
def redfloe_server_args():
    return ["--maxclients", "7"]


def test_args(redfloe_url):
    import redis

    with redis.Redis.from_url(redfloe_url) as client:
        assert client.config_get("maxclients") == {"maxclients": "7"}
"""


@pytest.mark.parametrize(
    ("tests", "passed"), [(TESTS, 12), (UNUSED, 1), (ARGS, 1)], ids=["used", "unused", "args"]
)
@pytest.mark.slow
def test_a_user_has_the_fixtures(tmp_path: Path, tests: str, passed: int) -> None:
    """Where the package is installed, with the entry points that pyproject.toml names."""
    installed = tmp_path / "installed" / "redfloe-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: redfloe\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n{name} = {value}\n"
            for group, points in PROJECT["entry-points"].items()
            for name, value in points.items()
        )
    )
    (tmp_path / "test_users.py").write_text(tests)
    path = os.pathsep.join([str(installed.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:asyncio"]
    run = subprocess.run(
        [*command, "test_users.py"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=10 * SLACK,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{passed} passed" in run.stdout
