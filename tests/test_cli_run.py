"""``redfloe run``: processes that run an app, started again when they die, and stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from redfloe.messages import Producer
from support.commands import command, run
from support.events import orders, pending
from support.server import Server
from support.timing import SLACK, eventually, within

APP = """\
import asyncio
import os
import signal
import time

from pydantic import BaseModel
from redfloe.messages import App, Router

NAME = os.environ.get("NAME", "{hostname}-{worker}")
KIND = os.environ.get("KIND", "")


class OrderPlaced(BaseModel):
    order_id: int


class shop:
    app = App(
        os.environ["REDIS_URL"], group="g", consumer=NAME, batch_size=5, reclaim_interval_ms=50,
        reclaim_min_idle_ms=500,
    )

empty = App(os.environ["REDIS_URL"], group="g")


def say(text):
    with open("handled", "a") as file:
        file.write(f"{text} {os.getpid()}\\n")


@shop.app.on("orders", OrderPlaced)
async def bill(event):
    say(event.order_id)
    if KIND == "die" and event.order_id == 10 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if KIND == "fail":
        raise ValueError
    if KIND == "exit" and not os.path.exists("died"):
        open("died", "w").close()
        raise SystemExit(0)
    if KIND == "leave" and not os.path.exists("died"):
        open("died", "w").close()
        os._exit(0)
    if KIND == "leave at last":
        await asyncio.sleep(0.3)
        os._exit(0)
    if KIND == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(600)
    await asyncio.sleep(0.6 if KIND == "slow" else 0.005)
    say(f"-{event.order_id}")
"""


@pytest.fixture
def directory(tmp_path: Path, any_server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", any_server.url)
    return tmp_path


#: Leaves a process behind that keeps what the worker says open, and dies.
LEAVES = """\
import os
if os.environ["REDFLOE_WORKER"] == "1":
    if (child := os.fork()) == 0:
        os.closerange(0, 3)
        os.execlp("sleep", "sleep", "60")
    with open("left", "w") as file:
        file.write(f"{os.getpid()} {child}")
    os._exit(3)
"""


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("run", "shop:shop.app", *arguments),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def handled(directory: Path) -> list[tuple[int, int]]:
    """Give numbers of events, negative ones when their handler has returned, with process IDs."""
    file = directory / "handled"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(number), int(pid)) for number, pid in map(str.split, lines)]


def done(directory: Path) -> list[int]:
    return sorted(-number for number, _ in handled(directory) if number < 0)


def publish(server: Server, first: int, last: int) -> None:
    with Producer(server.url, "orders") as producer:
        producer.publish_many(orders(last, first=first))


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=10 * SLACK)
    return process.returncode, err


@pytest.mark.slow
def test_workers_share_the_messages_and_sigterm_drains_all(
    any_server: Server, client: redis.Redis, directory: Path
) -> None:
    publish(any_server, 1, 200)
    with running("--workers", "2") as process:
        eventually(lambda: len({pid for _, pid in handled(directory)}) == 2)
        assert end(process) == (0, "")
    did = handled(directory)
    # What began has ended, and the rest was given back.
    assert Counter(abs(number) for number, _ in did) == Counter(2 * done(directory))
    left = client.xinfo_groups("orders")[0]["lag"] + pending(client, "orders", "g")
    assert left == 200 - len(done(directory)) > 0
    # Those who come next are the same consumers, and do the rest.
    with running("--workers", "2") as process:
        eventually(lambda: len(done(directory)) >= 200)
        assert end(process, signal.SIGINT) == (0, "")
    assert done(directory) == [*range(1, 201)]
    assert pending(client, "orders", "g") == 0
    assert len(client.xinfo_consumers("orders", "g")) == 2


def test_a_worker_that_dies_is_started_again(
    any_server: Server, client: redis.Redis, directory: Path
) -> None:
    publish(any_server, 1, 30)
    with running(KIND="die") as process:
        eventually(lambda: {*done(directory)} == {*range(1, 31)})
        code, err = end(process)
    assert (code, err) == (
        0,
        "redfloe: worker 1 was ended by SIGKILL, and starts again in 0.1 s\n",
    )
    assert len({pid for _, pid in handled(directory)}) == 2


def test_one_that_goes_on_failing_is_started_after_longer_and_longer_pauses(
    any_server: Server, directory: Path
) -> None:
    publish(any_server, 1, 1)
    with running(KIND="fail") as process:
        assert process.stderr is not None
        lines: list[str] = []
        while len(lines) < 2:
            line = process.stderr.readline()
            if line.startswith("redfloe: worker"):
                lines.append(line)
        code, _ = end(process)
    assert lines == [
        f"redfloe: worker 1 ended with exit code 1, and starts again in {pause} s\n"
        for pause in ("0.1", "0.2")
    ]
    assert code == 1


def test_what_takes_longer_than_the_grace_is_cancelled(
    any_server: Server, client: redis.Redis, directory: Path
) -> None:
    publish(any_server, 1, 2)
    with running("--grace", "0.1", KIND="slow") as process:
        eventually(lambda: handled(directory))
        assert end(process)[0] == 0
    assert done(directory) == []
    assert pending(client, "orders", "g") == 2


def test_a_worker_that_cannot_end_is_killed(
    any_server: Server, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "from redfloe._cli import supervisor; supervisor._LEAVING = 0.2; "
    publish(any_server, 1, 1)
    monkeypatch.setattr(
        "support.commands.SCRIPT",
        script + "from redfloe.__main__ import main; import sys; sys.exit(main())",
    )
    with running("--grace", "0.1", KIND="hang") as process:
        eventually(lambda: handled(directory))
        code, err = end(process)
    assert code == 137
    assert err == "redfloe: worker 1 took longer than 0.1 s to end, and is killed\n"


def test_workers_end_when_their_supervisor_is_killed(
    any_server: Server, client: redis.Redis, directory: Path
) -> None:
    publish(any_server, 1, 200)
    with running():
        eventually(lambda: len(done(directory)) > 5)
    _, worker = handled(directory)[0]
    eventually(lambda: has_ended(worker))
    numbers = [number for number, _ in handled(directory)]
    assert len(numbers) == 2 * len(done(directory)) < 400


def test_workers_of_one_name_are_refused(directory: Path) -> None:
    with running("--workers", "2", NAME="worker-1") as process:
        _, err = process.communicate(timeout=10 * SLACK)
    assert process.returncode == 1
    assert (  # before or after it one may have made the group, and said so
        "redfloe: several workers are the consumer 'worker-1', and would take each other's "
        "messages; call it '{hostname}-{worker}', or leave its name out\n"
    ) in err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "shopp:app",
            "redfloe: there is no module 'shopp', neither installed nor in this direc",
        ),
        ("shop:app", "redfloe: the module 'shop' has no 'app'"),
        ("shop:OrderPlaced", "redfloe: shop:OrderPlaced is no App, but ModelMetaclass"),
        ("shop:empty", "redfloe: shop:empty has no handlers: include a router"),
    ],
)
def test_what_is_no_app(any_server: Server, directory: Path, target: str, message: str) -> None:
    err = run("run", target, url=any_server.url, code=1).stderr
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_module_that_raises_shows_where(any_server: Server, directory: Path) -> None:
    (directory / "broken.py").write_text("1 / 0\n")
    process = subprocess.run(
        command("run", "broken:app"), check=False, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "broken.py" in process.stderr
    assert process.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_what_a_dead_worker_has_left_behind_holds_nothing_up(
    any_server: Server, directory: Path
) -> None:
    (directory / "broken.py").write_text(
        "import os, time\n"
        "if (child := os.fork()) == 0:\n"
        "    os.closerange(0, 3)\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "open('child', 'w').write(str(child))\n"
        "1 / 0\n"
    )
    try:
        process = subprocess.run(
            command("run", "broken:app"), check=False, stderr=subprocess.DEVNULL, timeout=5 * SLACK
        )
    finally:
        os.kill(int((directory / "child").read_text()), signal.SIGKILL)
    assert process.returncode == 1


@pytest.mark.slow
def test_a_signal_reaches_all_workers_but_those_that_have_just_ended(
    any_server: Server, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "shop.py").write_text(LEAVES + APP)
    monkeypatch.setattr(
        "support.commands.SCRIPT",
        "from redfloe._cli import supervisor; supervisor._LISTENING = 2.0; "
        "from redfloe.__main__ import main; import sys; sys.exit(main())",
    )
    publish(any_server, 1, 1)
    left = directory / "left"
    with running("--workers", "2") as process:
        eventually(lambda: handled(directory) and left.exists() and left.read_text())
        worker, child = map(int, left.read_text().split())
        try:
            eventually(lambda: has_ended(worker))
            with within(5):  # not after the grace time, by force
                code, err = end(process)
        finally:
            os.kill(child, signal.SIGKILL)
    assert (code, err) == (1, "")
    assert done(directory) == [1]


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # One that nobody waits for.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_target_without_an_app_is_no_target(any_server: Server) -> None:
    done = run("run", "shop", url=any_server.url, code=2)
    assert "names no app" in done.stderr


def test_a_module_that_exits_is_no_app(any_server: Server, directory: Path) -> None:
    (directory / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    process = subprocess.run(
        command("run", "leaving:app"), check=False, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "leaving.py" in process.stderr
    assert process.stderr.endswith("SystemExit: 0\n")


def test_a_worker_whose_handler_exits_is_started_again(any_server: Server, directory: Path) -> None:
    publish(any_server, 1, 5)
    with running(KIND="exit") as process:
        eventually(lambda: {*done(directory)} == {1, 2, 3, 4, 5})
        code, err = end(process)
    assert code == 0
    assert "redfloe: a handler has called sys.exit(0)\n" in err
    assert "worker 1 ended with exit code 1, and starts again in 0.1 s\n" in err


def test_a_worker_whose_handler_ends_the_process_is_started_again(
    any_server: Server, directory: Path
) -> None:
    """Not even with exit code 0 does it pass for one that has ended well."""
    publish(any_server, 1, 3)
    with running(KIND="leave") as process:
        eventually(lambda: done(directory) == [1, 2, 3])
        code, err = end(process)
    assert (code, err) == (
        0,
        "redfloe: worker 1 ended with exit code 0 before its app did, and starts again in 0.1 s\n",
    )


def test_a_worker_whose_handler_ends_the_process_at_last_has_failed(
    any_server: Server, directory: Path
) -> None:
    publish(any_server, 1, 1)
    with running(KIND="leave at last") as process:
        eventually(lambda: handled(directory))
        assert end(process) == (1, "")
