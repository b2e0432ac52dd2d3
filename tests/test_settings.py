"""A connection from the environment, from a file, and through a pickle."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import traceback
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal
from pydantic import BaseModel, ValidationError

import redfloe
from redfloe import RedisConnection
from redfloe.settings import RedisSettings
from support.secrets import PASSWORD, QUOTED
from support.server import Server
from support.streams import NUMBER, add_numbers, numbers

#: Each parameter of `RedisConnection`, otherwise than by default.
ALL: dict[str, Any] = {
    "max_retries": 7,
    "retry_base_delay": 0.25,
    "retry_max_delay": 2.5,
    "connect_timeout": 1.5,
    "response_timeout": 3.0,
    "tls_ca": "/ca.pem",
    "tls_cert": "/cert.pem",
    "tls_key": "/key.pem",
    "client_name": "me",
    "read_from": "replica",
}
URL = "rediss://h:7000/2"


def set_all(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    for name, value in ALL.items():
        monkeypatch.setenv(prefix + name.upper(), str(value))


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", URL)
    assert RedisConnection.from_env() == RedisConnection(URL)
    set_all(monkeypatch, "REDIS_")
    assert RedisConnection.from_env() == RedisConnection(URL, **ALL)
    # What Kubernetes sets for a service called "redis", and what is set to nothing.
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6379")
    monkeypatch.setenv("REDIS_CLIENT_NAME", "")
    assert RedisConnection.from_env() == RedisConnection(URL, **{**ALL, "client_name": None})
    monkeypatch.setenv("SHOP_URL", "redis://shop")
    assert RedisConnection.from_env("SHOP_") == RedisConnection("redis://shop")


@pytest.mark.parametrize(
    ("url", "login"),
    [("redis://h/2", f"redis://LOGIN{QUOTED}@h/2"), ("unix:///s", f"unix:///s?LOGIN{QUOTED}")],
)
def test_a_login_beside_the_url(monkeypatch: pytest.MonkeyPatch, url: str, login: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    is_unix = url.startswith("unix")
    assert RedisConnection.from_env() == RedisConnection(
        login.replace("LOGIN", "pass=" if is_unix else ":")
    )
    monkeypatch.setenv("REDIS_USERNAME", "app")
    both = login.replace("LOGIN", "user=app&pass=" if is_unix else "app:")
    assert RedisConnection.from_env() == RedisConnection(both)
    monkeypatch.setenv("REDIS_URL", both)
    with pytest.raises(ValueError, match="login is given once") as caught:
        RedisConnection.from_env()
    assert PASSWORD not in str(caught.value)


def test_an_environment_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="set the environment variable SHOP_URL"):
        RedisConnection.from_env("SHOP_")
    monkeypatch.setenv("SHOP_URL", "redis://h")
    monkeypatch.setenv("SHOP_MAX_RETRIES", PASSWORD)
    with pytest.raises(ValueError, match="SHOP_MAX_RETRIES must be a number") as caught:
        RedisConnection.from_env("SHOP_")
    assert PASSWORD not in str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    lines = [f"{name} = {value!r}" for name, value in ALL.items()]
    path.write_text("\n".join(["[redis]", f'url = "{URL}"', *lines, "", "[other]", "x = 1"]))
    return path


def test_from_toml(file: Path) -> None:
    assert RedisConnection.from_file(file) == RedisConnection(URL, **ALL)
    assert RedisConnection.from_file(str(file)) == RedisConnection(URL, **ALL)


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_from_yaml(tmp_path: Path, suffix: str) -> None:
    path = (tmp_path / "shop").with_suffix(suffix)
    path.write_text(f"url: {URL}\nmax_retries: 7\n")
    connection = RedisConnection.from_file(path, section=None)
    assert connection == RedisConnection(URL, max_retries=7)


def test_the_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setenv("REDIS_MAX_RETRIES", "9")
    monkeypatch.setenv("SHOP_MAX_RETRIES", "10")
    for prefix, expected in [("REDIS_", 9), ("SHOP_", 10), (None, 7)]:
        connection = RedisConnection.from_file(file, env_prefix=prefix)
        assert connection == RedisConnection(URL, **{**ALL, "max_retries": expected})


def test_a_file_that_is_wrong(tmp_path: Path, file: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        RedisConnection.from_file(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="has no section 'shop'"):
        RedisConnection.from_file(file, section="shop")
    with pytest.raises(ValidationError, match=r"(?s)url.*Field required.*x.*not permitted"):
        RedisConnection.from_file(file, section="other")
    other = tmp_path / "shop.ini"
    other.write_text("")
    with pytest.raises(ValueError, match=r"must end in \.toml"):
        RedisConnection.from_file(other)
    file.write_text(f'[redis]\nurl = "redis://:{QUOTED}@h"\npassword = "{PASSWORD}"\n')
    with pytest.raises(ValueError, match="login is given once") as caught:
        RedisConnection.from_file(file)
    assert PASSWORD not in str(caught.value)
    file.write_text(f'[redis]\nurl = "redis://h"\nmax_retries = "{PASSWORD}"\n')
    with pytest.raises(ValidationError, match="max_retries") as invalid:
        RedisConnection.from_file(file)
    assert PASSWORD not in str(invalid.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", 'redis = "PW"', "must hold names and values in its section 'redis'"),
        ("a.toml", "[[redis]]\npassword = 'PW'", "must hold names and values"),
        ("a.toml", "[redis]\npassword = PW", r"is not TOML \(at line 2, column"),
        ("a.yaml", "redis: PW", "must hold names and values"),
        ("a.yaml", "- PW", "has no section 'redis'"),
        ("a.yaml", "redis:\n  password: *PW", r"is not YAML \(at line 2, column \d+\)"),
        ("a.yaml", "redis:\n  password: !PW x", r"is not YAML \(at line 2"),
        ("a.yaml", "redis: {password: PW", "is not YAML"),
        ("a.yaml", "redis:\n  url: redis://h\n  password: [PW]", "a text as password"),
        ("a.yaml", "redis:\n  url: redis://h\n  password: PW\n  max_retries: x", "max_retries"),
    ],
)
def test_a_malformed_file_is_an_error_that_quotes_nothing(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text.replace("PW", PASSWORD))
    with pytest.raises(ValueError, match=message) as caught:
        RedisConnection.from_file(path)
    error: BaseException | None = caught.value
    if isinstance(error, ValidationError):
        assert PASSWORD not in repr(error.errors())
    while error is not None:
        assert PASSWORD not in str(error)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if "redfloe" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
                assert PASSWORD not in repr(frame.f_locals)
        error = error.__context__


def test_variables_beside_a_file_are_those_of_from_env(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", "")  # which counts as absent
    monkeypatch.setenv("REDIS_MAX_RETRIES", "")
    monkeypatch.setenv("redis_client_name", "somebody")  # another variable
    assert RedisConnection.from_file(file) == RedisConnection(URL, **ALL)


@pytest.mark.parametrize("where", ["url", "username", "password"])
def test_what_is_no_utf_8_is_not_quoted(where: str) -> None:
    odd = f"{PASSWORD}\udcff"
    given = f"redis://:{odd}@h" if where == "url" else odd
    arguments: dict[str, Any] = {"url": "redis://h", where: given}
    with pytest.raises(ValueError, match=f"^{where} has a lone surrogate") as caught:
        RedisConnection(**arguments)
    assert not hasattr(caught.value, "object")
    with pytest.raises(TypeError, match=f"{where} must be str, not int"):
        RedisConnection(**{**arguments, where: 5})


def test_as_a_part_of_other_settings() -> None:
    class Settings(BaseModel):
        redis: RedisSettings

    settings = Settings.model_validate({"redis": {"url": URL, "password": PASSWORD, **ALL}})
    expected = RedisConnection(URL.replace("//", f"//:{QUOTED}@"), **ALL)
    assert settings.redis.connection() == expected
    assert PASSWORD not in repr(settings)


# Pickles


@pytest.mark.parametrize(
    "url",
    [
        URL,
        f"rediss://app:{QUOTED}@h:1/2?protocol=resp3",
        f"rediss://:{QUOTED}@[::1]",
        "rediss://user@h",
    ],
)
@pytest.mark.parametrize("settings", [{}, ALL], ids=["defaults", "all"])
def test_a_pickled_connection(url: str, settings: dict[str, Any]) -> None:
    connection = RedisConnection(url, **settings)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(connection, protocol)) == connection
    login = RedisConnection("redis://h", username="app", password=PASSWORD)
    assert pickle.loads(pickle.dumps(login)) == login == RedisConnection(f"redis://app:{QUOTED}@h")
    assert copy.copy(connection) == copy.deepcopy(connection) == connection
    unix = RedisConnection(f"unix:///run/a b?db=1&user=u&pass={QUOTED}")
    assert pickle.loads(pickle.dumps(unix)) == unix


def test_a_pickled_scan(any_server: Server, client: redis.Redis, stream: str) -> None:
    """In a process that shares nothing with this one, as it is recommended."""
    add_numbers(client, stream, 5)
    connection = RedisConnection(any_server.url, client_name="pickled")
    scan = redfloe.scan_stream(connection, stream, NUMBER).filter(pl.col("n") > 2)
    assert_frame_equal(pickle.loads(pickle.dumps(scan)).collect(), numbers(5, first=3))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        frame = pool.apply(collected, (scan,))
    assert_frame_equal(frame, numbers(5, first=3))


def collected(scan: pl.LazyFrame) -> pl.DataFrame:
    return scan.collect()
