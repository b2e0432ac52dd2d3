"""Settings as pydantic models, for files and for the settings of your own application.

Needs the extra ``settings``: ``pip install 'redfloe[settings]'``.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from redfloe._core import RedisConnection
from redfloe._settings import variable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RedisSettings"]


class RedisSettings(BaseModel):
    """How to reach a server, as a part of an application's settings.

    The fields are the parameters of `RedisConnection`; what is left out has its default there.

    Attributes
    ----------
    url : str
        As `RedisConnection` takes it.
    username, password : str, optional
        The login, where the URL has none.
    sentinel_username, sentinel_password : str, optional
        The login to the sentinels, where the URL has none.
    max_retries : int, optional
    retry_base_delay, retry_max_delay, connect_timeout, response_timeout : float, optional
        In seconds.
    tls_ca, tls_cert, tls_key : path, optional
    client_name : str, optional
    read_from : {"master", "replica"}, optional
    address_map : dict, optional
        In a file only.

    Examples
    --------
    >>> from redfloe.settings import RedisSettings
    >>> RedisSettings(url="redis://localhost", password="p@ss", max_retries=10).connection()
    RedisConnection("redis://:***@localhost:6379")
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr
    username: str | None = None
    password: SecretStr | None = None
    sentinel_username: str | None = None
    sentinel_password: SecretStr | None = None
    max_retries: int | None = None
    retry_base_delay: float | None = None
    retry_max_delay: float | None = None
    connect_timeout: float | None = None
    response_timeout: float | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_name: str | None = None
    read_from: Literal["master", "replica"] | None = None
    address_map: dict[str, str] | None = None

    def connection(self) -> RedisConnection:
        """Give the connection that is described. Nothing is sent.

        Raises
        ------
        ValueError
            As `RedisConnection` does.
        """
        return RedisConnection(
            self.url.get_secret_value(),
            password=_revealed(self.password),
            sentinel_password=_revealed(self.sentinel_password),
            **self.model_dump(exclude=_SECRETS, exclude_none=True),
        )

    @staticmethod
    def from_file(
        path: str | Path,
        *,
        section: str | None = "redis",
        env_prefix: str | None = "REDIS_",
    ) -> RedisSettings:
        """Read settings from a TOML or YAML file.

        Parameters
        ----------
        path : path
            A file that ends in ``.toml``, ``.yaml`` or ``.yml``.
        section : str or None, default "redis"
            The table of the file that holds them; None for its top level.
        env_prefix : str or None, default "REDIS_"
            Environment variables that begin so, such as ``REDIS_PASSWORD``, take precedence. None
            to read none.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is of another format, has no such section, or pydantic refuses a value
            (`pydantic.ValidationError`, which does not show passwords).
        """
        file = Path(path)
        if not file.is_file():
            msg = f"there is no file {file}"
            raise FileNotFoundError(msg)
        if file.suffix not in {".toml", ".yaml", ".yml"}:
            msg = f"{file} must end in .toml, .yaml or .yml"
            raise ValueError(msg)
        values, problem = _read(file, section)
        if problem is not None:
            msg = f"{file} {problem}"
            raise ValueError(msg)
        where = f"{file}"
        if env_prefix is not None:
            # Empty ones count as absent, as in `RedisConnection.from_env`.
            values |= _hidden({name: variable(env_prefix, name) for name in _FIELDS})
            where += f" and variables that begin with {env_prefix}"
        return _validated(values, f"the settings are from {where}")


#: The fields that must not be shown.
_SECRETS = {"url", "password", "sentinel_password"}


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


#: What a variable can hold.
_FIELDS = tuple(name for name in RedisSettings.model_fields if name != "address_map")
_PARSERS: dict[str, Callable[[str], Any]] = {"TOML": tomllib.loads, "YAML": yaml.safe_load}


def _read(file: Path, section: str | None) -> tuple[dict[str, Any], str | None]:
    """Give the values of a section, or what is wrong with the file.

    The caller raises the error, because tools that report errors show each frame's variables, and
    here these hold a password.
    """
    kind = "TOML" if file.suffix == ".toml" else "YAML"
    try:
        content = _PARSERS[kind](file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return {}, f"is not {kind}: it is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        return {}, f"is not {kind}" + "".join(re.findall(r" \(at .*\)", str(error)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (at line {mark.line + 1}, column {mark.column + 1})"
        return {}, f"is not {kind}{place}"
    if section is not None:
        if not isinstance(content, dict) or section not in content:
            return {}, f"has no section {section!r}; name another, or None for its top level"
        content = content[section]
    if not isinstance(content, dict):
        what = "at its top level" if section is None else f"in its section {section!r}"
        return {}, f"must hold names and values {what}, such as url"
    for name in (*_SECRETS, "username", "sentinel_username"):
        if not isinstance(content.get(name, ""), str):
            return {}, f"must hold a text as {name}; is it in quotes?"
    return _hidden({str(name): value for name, value in content.items()}), None


def _hidden(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is absent, and wrap what is secret: no frame shows it from here on."""
    return {
        name: SecretStr(value) if name in _SECRETS else value
        for name, value in values.items()
        if value is not None
    }


def _validated(values: dict[str, Any], note: str) -> RedisSettings:
    try:
        return RedisSettings.model_validate(values)
    except ValidationError as error:
        error.add_note(note)
        raise
