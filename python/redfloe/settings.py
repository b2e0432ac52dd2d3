"""Settings as pydantic models, for files and for the settings of your own application.

Needs the extra ``settings``: ``pip install 'redfloe[settings]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
    YamlConfigSettingsSource,
)

from redfloe._core import RedisConnection

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
    max_retries : int, optional
    retry_base_delay, retry_max_delay, connect_timeout, response_timeout : float, optional
        In seconds.
    tls_ca, tls_cert, tls_key : path, optional
    client_name : str, optional

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
    max_retries: int | None = None
    retry_base_delay: float | None = None
    retry_max_delay: float | None = None
    connect_timeout: float | None = None
    response_timeout: float | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_name: str | None = None

    def connection(self) -> RedisConnection:
        """Give the connection that is described. Nothing is sent.

        Raises
        ------
        ValueError
            As `RedisConnection` does.
        """
        return RedisConnection(
            self.url.get_secret_value(),
            password=None if self.password is None else self.password.get_secret_value(),
            **self.model_dump(exclude={"url", "password"}, exclude_none=True),
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
        header = () if section is None else (section,)
        source: PydanticBaseSettingsSource
        try:
            if file.suffix == ".toml":
                source = TomlConfigSettingsSource(_FromFile, file, toml_table_header=header)
            else:
                source = YamlConfigSettingsSource(_FromFile, file, yaml_config_section=section)
        except KeyError:
            msg = f"{file} has no section {section!r}; name another, or None for its top level"
            raise ValueError(msg) from None
        try:
            if env_prefix is None:
                return RedisSettings.model_validate(source())
            return _FromFile(_env_prefix=env_prefix, **source())
        except ValidationError as error:
            variables = "" if env_prefix is None else f", or variables that begin with {env_prefix}"
            error.add_note(f"the settings are from {file}{variables}")
            raise


class _FromFile(BaseSettings, RedisSettings):
    """Settings of a file, which are given to it, and of the environment."""

    model_config = SettingsConfigDict(extra="forbid", title="RedisSettings")

    # Types say what is given here, and pydantic-settings' own arguments.
    def __init__(self, **values: Any) -> None:
        super().__init__(**values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Prefer the environment."""
        return env_settings, init_settings
