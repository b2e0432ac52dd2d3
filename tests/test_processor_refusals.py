"""Commits that a server could not take: all of it is refused, or it is put aside."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import redfloe
from support.consumers import World, dead_ids, letters
from support.processors import LANE, STREAM, Driven, outputs, processor, work
from support.server import Server
from support.streams import add_numbers

OUT = "{numbers}:out"
SYNC = World(None)


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "deleted"])
@pytest.mark.parametrize("at", ["first", "later"])
def test_an_output_whose_ids_are_used_up(
    any_server: Server, client: redis.Redis, at: str, is_there: bool
) -> None:
    """What was written before the entry that it refused was in: half of a commit."""
    if at == "later" and not is_there:
        pytest.skip("that is not looked for each time")
    add_numbers(client, STREAM, 4)
    last = f"{2**64 - 1}-{2**64 - 1}"

    def use_up() -> None:
        client.xadd(OUT, {"n": 0}, id=last)
        if not is_there:
            client.xdel(OUT, last)

    with processor(any_server.url, batch_size=2) as made:
        if at == "first":
            use_up()
        else:
            work(SYNC, next(made))
        tx = next(made)
        use_up() if at == "later" else None
        before = {key: client.dump(key) for key in client.scan_iter() if key != LANE.encode()}
        tx.publish("{numbers}:other", tx.frame)
        work(SYNC, tx)
        with pytest.raises(redfloe.ResponseError, match="used up its IDs"):
            tx.commit()
        after = {key: client.dump(key) for key in client.scan_iter() if key != LANE.encode()}
        assert after == before
        client.delete(OUT)
        for tx in made:
            tx.publish(OUT, tx.frame)
    assert outputs(client) == ([1, 2, 3, 4] if at == "first" else [3, 4])


def test_an_entry_that_no_commit_can_move(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """The processor ended with it, and began with it."""
    large: dict[Any, Any] = {f"field{number}": "x" for number in range(4_000)}
    client.xadd(STREAM, {"n": 1}, id="1-0")
    client.xadd(STREAM, {**large, "n": "no number"}, id="2-0")
    client.xadd(STREAM, {"n": 3, "text": "x" * 2_000_000}, id="3-0")
    client.xadd(STREAM, {"n": 4}, id="4-0")
    options: dict[str, Any] = {"max_commit_bytes": 1_000_000, "dead_letter": "{numbers}:dead"}
    with Driven(world, processor(any_server.url, **options)) as driven:
        for tx in driven:
            tx.fail(tx.ids.filter(tx.frame["n"] == 3), "it is large")
            work(world, tx)
    assert outputs(client) == [1, 3, 4]
    assert dead_ids(client, "{numbers}:dead") == ["2-0", "3-0"]
    wide, long = letters(client, "{numbers}:dead")
    assert len(wide) == len(long) == 7
    assert b"its 4001 fields are more than a commit can move" in wide[b"_dead_reason"]
    assert long[b"_dead_reason"].startswith(b"it is large (its 2 fields")
