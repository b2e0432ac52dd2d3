"""The exceptions: their bases, what provokes each, and what travels with them."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import polars as pl
import pytest

import redfloe
from redfloe import (
    AuthenticationError,
    CheckpointError,
    ClaimedError,
    DataLossError,
    DecodeError,
    FencedError,
    NoGroupError,
    NoProcessorError,
    NoStreamError,
    NotDurableError,
    OutcomeUnknownError,
    PendingEntriesError,
    ProcessorRunningError,
    RedfloeError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    ResponseError,
    SchemaError,
    WriteError,
    WrongTypeError,
    _core,
    delete_consumer,
    delete_processor,
    read_stream,
    reset_processor,
    write_stream,
)
from support.lanes import put_lane
from support.proxy import Proxy
from support.secrets import raises_discreetly, with_password
from support.server import HOST, Server

#: The class of each of the core's kinds of error.
CLASSES: dict[str, type[Exception]] = {
    "InvalidArgument": ValueError,
    "Connection": RedisConnectionError,
    "Timeout": RedisTimeoutError,
    "Authentication": AuthenticationError,
    "Response": ResponseError,
    "WrongType": WrongTypeError,
    "NoStream": NoStreamError,
    "NoGroup": NoGroupError,
    "Schema": SchemaError,
    "Decode": DecodeError,
    "DataLoss": DataLossError,
    "Fenced": FencedError,
    "Claimed": ClaimedError,
    "Write": WriteError,
    "OutcomeUnknown": OutcomeUnknownError,
    "NotDurable": NotDurableError,
    "PendingEntries": PendingEntriesError,
    "NoProcessor": NoProcessorError,
    "ProcessorRunning": ProcessorRunningError,
    "Internal": RedfloeError,
}

#: The builtin that each class also is.
BUILTINS: dict[type[RedfloeError], type[Exception]] = {
    RedisConnectionError: ConnectionError,
    RedisTimeoutError: TimeoutError,
    AuthenticationError: PermissionError,
    ResponseError: Exception,
    WrongTypeError: TypeError,
    NoGroupError: LookupError,
    NoStreamError: LookupError,
    SchemaError: ValueError,
    DecodeError: ValueError,
    CheckpointError: ValueError,
    DataLossError: Exception,
    FencedError: Exception,
    ClaimedError: FencedError,
    WriteError: Exception,
    OutcomeUnknownError: Exception,
    NotDurableError: Exception,
    PendingEntriesError: Exception,
    NoProcessorError: LookupError,
    ProcessorRunningError: Exception,
}


def kinds() -> list[str]:
    """Name every kind that the core knows; its text is the text of what `raise_kind` raises."""
    names = []
    for index in range(_core.raise_kind(2**32)):
        with pytest.raises(Exception) as raised:
            _core.raise_kind(index)
        names.append(str(raised.value))
    return names


def test_each_kind_has_its_class() -> None:
    assert kinds() == list(CLASSES)
    for index, expected in enumerate(CLASSES.values()):
        with pytest.raises(expected) as raised:
            _core.raise_kind(index)
        assert type(raised.value) is expected


def test_each_class_has_a_kind_and_a_builtin() -> None:
    public = {
        value
        for name in redfloe.__all__
        if inspect.isclass(value := getattr(redfloe, name)) and issubclass(value, Exception)
    }
    # A checkpoint store is Python's own.
    assert public == {*CLASSES.values(), CheckpointError} - {ValueError}
    assert public == {RedfloeError, *BUILTINS}


@pytest.mark.parametrize(("error", "builtin"), BUILTINS.items(), ids=lambda one: one.__name__)
def test_each_class_is_a_redfloe_error_and_the_builtin_that_fits(
    error: type[RedfloeError], builtin: type[Exception]
) -> None:
    assert issubclass(error, RedfloeError)
    assert issubclass(error, builtin)
    assert error.__module__ == "redfloe"
    others = {*BUILTINS} - {error, builtin}
    assert not any(issubclass(error, other) for other in others)


@pytest.mark.parametrize("error", [RedfloeError, *BUILTINS], ids=lambda one: one.__name__)
@pytest.mark.parametrize("code", [None, "LOADING"])
def test_text_and_code_survive_pickling_and_copying(
    error: type[RedfloeError], code: str | None
) -> None:
    original = error("the server said no", code)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for one in (pickle.loads(pickle.dumps(original, protocol)), copy.copy(original)):
            assert type(one) is error
            assert str(one) == "the server said no"
            assert one.args == ("the server said no",)
            assert one.code == code


@pytest.mark.parametrize("error", [DecodeError, SchemaError])
def test_where_it_happened_survives_pickling_and_copying(
    error: type[DecodeError | SchemaError],
) -> None:
    assert (error("no").entry_id, error("no").field, error("no").stream) == (None, None, None)
    original = error("no")
    original.entry_id, original.field, original.stream = "1-0", "items[1].price", "orders"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for one in (pickle.loads(pickle.dumps(original, protocol)), copy.copy(original)):
            assert (one.entry_id, one.field, one.stream) == ("1-0", "items[1].price", "orders")


# One real cause for each kind


def invalid_argument(server: Server) -> None:
    read_stream(server.url, "s", start_id="x")


def connection(server: Server) -> None:
    read_stream(RedisConnection(with_password(f"redis://{HOST}:1"), max_retries=0), "s")


def timeout(server: Server) -> None:
    with Proxy(server.port) as proxy:
        proxy.stall_after(3, once_seen=b"XREVRANGE")
        read_stream(RedisConnection(proxy.url, response_timeout=0.2), "s")


def authentication(server: Server) -> None:
    read_stream(with_password(server.url, user="stranger"), "s")


def response(server: Server) -> None:
    # The default user needs no password, so it may give any.
    read_stream(with_password(server.url, user="default") + "/99", "s")


def wrong_type(server: Server) -> None:
    server.client().set("text", "x")
    read_stream(server.url, "text")


def no_stream(server: Server) -> None:
    read_stream(server.url, "s", must_exist=True)


def no_group(server: Server) -> None:
    server.client().xadd("s", {"n": "1"})
    read_stream(server.url, "s", group="g", consumer="c", create_group=False)


def schema(server: Server) -> None:
    server.client().xadd("s", {"_id": "forged"})
    read_stream(server.url, "s")


def decode(server: Server) -> None:
    server.client().xadd("s", {"n": "x"})
    read_stream(server.url, "s", {"n": pl.Int64})


def write(server: Server) -> None:
    server.client().xadd("s", {"a": 1}, id="5-0")
    write_stream(server.url, pl.DataFrame({"id": ["4-0"], "a": [1]}), "s", id_column="id")


def outcome_unknown(server: Server) -> None:
    with Proxy(server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD")
        write_stream(proxy.url, pl.DataFrame({"a": [1]}), "s")


def pending_entries(server: Server) -> None:
    server.client().xadd("s", {"n": "1"})
    read_stream(server.url, "s", group="g", consumer="c")
    delete_consumer(server.url, "s", "g", "c")


def no_processor(server: Server) -> None:
    reset_processor(server.url, "s", "p", to="0", state="keep")


def processor_running(server: Server) -> None:
    put_lane(server.client(), "s", "p", owner="host", left_ms=30_000)
    delete_processor(server.url, "s", "p")


CAUSES: dict[str, Callable[[Server], None]] = {
    "InvalidArgument": invalid_argument,
    "Connection": connection,
    "Timeout": timeout,
    "Authentication": authentication,
    "Response": response,
    "WrongType": wrong_type,
    "NoStream": no_stream,
    "NoGroup": no_group,
    "Schema": schema,
    "Decode": decode,
    "Write": write,
    "OutcomeUnknown": outcome_unknown,
    "PendingEntries": pending_entries,
    "NoProcessor": no_processor,
    "ProcessorRunning": processor_running,
}
#: Nothing can provoke these yet, but `raise_kind`.
WITHOUT_CAUSE = {"DataLoss", "Fenced", "Claimed", "NotDurable", "Internal"}

CODES = {
    "Authentication": "WRONGPASS",
    "Response": "ERR",
    "WrongType": "WRONGTYPE",
    "NoGroup": "NOGROUP",
}


def test_each_kind_has_a_cause_that_is_tested() -> None:
    assert {*CAUSES} | WITHOUT_CAUSE == {*kinds()}
    assert not {*CAUSES} & WITHOUT_CAUSE


@pytest.mark.parametrize("kind", CAUSES)
def test_a_real_cause(server: Server, kind: str) -> None:
    with raises_discreetly(CLASSES[kind]) as raised:
        CAUSES[kind](server)
    if isinstance(raised.value, RedfloeError):
        assert raised.value.code == CODES.get(kind)


def test_errors_say_where_it_happened(any_server: Server) -> None:
    client, url = any_server.client(), any_server.url
    client.xadd("s", {"n": "x"}, id="1-0")
    with pytest.raises(DecodeError) as misfit:
        read_stream(url, "s", {"n": pl.Int64})
    assert (misfit.value.entry_id, misfit.value.field, misfit.value.stream) == ("1-0", "n", "s")
    client.xadd("t", {"_id": "forged"}, id="2-0")
    with pytest.raises(SchemaError) as clash:
        read_stream(url, "t")
    assert (clash.value.entry_id, clash.value.field, clash.value.stream) == ("2-0", "_id", "t")
    client.xadd("b", {b"\xff": "odd"}, id="3-0")
    with pytest.raises(DecodeError) as odd:
        read_stream(url, "b")
    assert (odd.value.entry_id, odd.value.field, odd.value.stream) == ("3-0", None, "b")
    with pytest.raises(NoStreamError) as missing:
        read_stream(url, "nowhere", must_exist=True)
    assert missing.value.stream == "nowhere"
    assert not hasattr(missing.value, "field")


def test_the_server_s_words_are_kept(any_server: Server) -> None:
    with pytest.raises(ResponseError, match="DB index is out of range"):
        read_stream(any_server.url + "/99", "s")


def test_messages_name_the_stream_and_the_address() -> None:
    url = with_password(f"redis://{HOST}:1")
    with raises_discreetly(RedisConnectionError) as raised:
        read_stream(RedisConnection(url, max_retries=0), "clicks")
    assert "stream: clicks" in str(raised.value)
    assert f"address: {HOST}:1" in str(raised.value)
    assert raised.value.errno is None


def test_a_builtin_catches_what_it_should(any_server: Server) -> None:
    with pytest.raises(ConnectionError):
        connection(any_server)
    with pytest.raises(TimeoutError):
        timeout(any_server)
    with pytest.raises(PermissionError):
        authentication(any_server)
    with pytest.raises(OSError, match="stream: s"):  # what all three are
        connection(any_server)
