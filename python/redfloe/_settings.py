"""A connection from the environment or a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from redfloe._core import RedisConnection

if TYPE_CHECKING:
    from pathlib import Path

#: What is read beside the URL and the login, which are in no variable here: errors show those.
_SETTINGS: dict[str, type] = {
    "max_retries": int,
    "retry_base_delay": float,
    "retry_max_delay": float,
    "connect_timeout": float,
    "response_timeout": float,
    "tls_ca": str,
    "tls_cert": str,
    "tls_key": str,
    "client_name": str,
    "read_from": str,
}


def from_env(prefix: str) -> RedisConnection:
    """`RedisConnection.from_env`."""
    if not variable(prefix, "url"):
        msg = f"set the environment variable {prefix}URL, such as to redis://localhost:6379"
        raise ValueError(msg)
    settings: dict[str, Any] = {}
    for name, kind in _SETTINGS.items():
        if variable(prefix, name):
            try:
                settings[name] = kind(variable(prefix, name))
            except ValueError:
                msg = f"the environment variable {prefix}{name.upper()} must be a number"
                raise ValueError(msg) from None
    return RedisConnection(
        variable(prefix, "url") or "",
        username=variable(prefix, "username"),
        password=variable(prefix, "password"),
        sentinel_username=variable(prefix, "sentinel_username"),
        sentinel_password=variable(prefix, "sentinel_password"),
        **settings,
    )


def variable(prefix: str, name: str) -> str | None:
    """Give a variable's value; one that is empty counts as absent."""
    return os.environ.get(prefix + name.upper()) or None


def from_file(path: Path, section: str | None, env_prefix: str | None) -> RedisConnection:
    """`RedisConnection.from_file`."""
    try:
        from redfloe.settings import RedisSettings
    except ImportError as error:
        msg = "settings in a file need pydantic-settings: pip install 'redfloe[settings]'"
        raise ImportError(msg) from error
    return RedisSettings.from_file(path, section=section, env_prefix=env_prefix).connection()
