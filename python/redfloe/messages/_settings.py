"""Where an app works and as whom, from a file and the environment."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from redfloe._core import RedisConnection
from redfloe._log import log
from redfloe._schema import as_text

T = TypeVar("T")

#: The section of a library whose files are read as they are.
_OF_OTHERS = "redis_streams"
_VARIABLES = {
    "url": "REDIS_URL",
    "stream": "STREAM_NAME",
    "group": "CONSUMER_GROUP",
    "consumer": "CONSUMER_NAME",
}

_Name = Annotated[str, Field(min_length=1)] | None


class ProducerSettings(BaseModel):
    """What an app's producers do.

    Attributes
    ----------
    stream : str, optional
        The stream's key.
    max_length : int, optional
        `maxlen` of a `Producer`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: _Name = None
    max_length: int | None = Field(default=None, ge=0)


class ConsumerSettings(BaseModel):
    """How an app reads.

    Attributes
    ----------
    stream : str, optional
        The stream's key; by default the producer's.
    group, consumer : str, optional
        The consumer group, and this worker's name in it; ``{hostname}`` and ``{pid}`` are replaced.
    block_ms, count : int, optional
        How long a poll waits, and how many messages a batch has at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: _Name = None
    group: _Name = None
    consumer: _Name = None
    block_ms: int | None = Field(default=None, ge=0)
    count: int | None = Field(default=None, ge=1)


class Settings(BaseModel):
    """Where an app works and as whom.

    Attributes
    ----------
    url : str
        As `RedisConnection` takes it.
    producer : ProducerSettings
    consumer : ConsumerSettings

    Examples
    --------
    >>> from redfloe.messages import Settings
    >>> settings = Settings(url="redis://localhost", consumer={"group": "billing"})
    >>> settings.consumer.group
    'billing'
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr = SecretStr("redis://localhost:6379")
    producer: ProducerSettings = ProducerSettings()
    consumer: ConsumerSettings = ConsumerSettings()

    @classmethod
    def load(cls, path: str | Path | None = None, *, section: str | None = "redis_streams") -> Self:
        """Read settings from a YAML file, from the environment, or from both: it goes first.

        The variables are ``REDIS_URL``, ``STREAM_NAME``, ``CONSUMER_GROUP`` and ``CONSUMER_NAME``.

        Parameters
        ----------
        path : path, optional
            The file; by default the environment alone counts.
        section : str or None, default "redis_streams"
            The section of the file that holds them; None for its top level. In ``redis_streams``,
            which is that of the library of this name, what has no counterpart here is ignored, and
            logged as ``settings_ignored``; in any other each name that is unknown is refused.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is no YAML, has no such section, or pydantic refuses a name or a value
            (`pydantic.ValidationError`, which does not show the URL).
        """
        values, where = ({}, "") if path is None else (_read(Path(path), section), f"{path} and ")
        producer, consumer = (_part(values, name, where) for name in ("producer", "consumer"))
        if section == _OF_OTHERS and (
            ignored := [
                *_without_unknown(values, cls, ""),
                *_without_unknown(producer, ProducerSettings, "producer."),
                *_without_unknown(consumer, ConsumerSettings, "consumer."),
            ]
        ):
            log("settings_ignored", {"path": str(path), "section": section, "ignored": ignored})
        variables = {name: os.environ.get(of) or None for name, of in _VARIABLES.items()}
        if variables["url"] is not None:
            values["url"] = variables["url"]
        if variables["stream"] is not None:
            producer["stream"] = consumer["stream"] = variables["stream"]
        for name in ("group", "consumer"):
            if variables[name] is not None:
                consumer[name] = variables[name]
        if "url" in values:
            values["url"] = SecretStr(str(values["url"]))
        try:
            return cls.model_validate({**values, "producer": producer, "consumer": consumer})
        except ValidationError as error:
            error.add_note(f"the settings are from {where}the environment")
            raise

    @property
    def connection(self) -> RedisConnection:
        """The connection that is described. Nothing is sent."""
        return RedisConnection(self.url.get_secret_value())

    @property
    def stream(self) -> str | None:
        """The stream that is worked on where nothing else is named."""
        return self.consumer.stream or self.producer.stream


def _part(values: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    part = values.get(name, {})
    if not isinstance(part, dict):
        msg = f"{where.removesuffix(' and ')} must hold names and values in {name!r}"
        raise ValueError(msg)
    return {str(key): value for key, value in part.items()}


def _without_unknown(values: dict[str, Any], model: type[BaseModel], prefix: str) -> list[str]:
    """Take out what is no field of a model; give the names."""
    unknown = [name for name in values if name not in model.model_fields]
    for name in unknown:
        del values[name]
    return [prefix + name for name in unknown]


def _read(file: Path, section: str | None) -> dict[str, Any]:
    if not file.is_file():
        msg = f"there is no file {file}"
        raise FileNotFoundError(msg)
    from redfloe.settings import _read as read_section

    values, problem = read_section(file, section)
    if problem is not None:
        msg = f"{file} {problem}"
        raise ValueError(msg)
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in values.items()
    }


@overload
def chosen(first: T | None, last: T, /) -> T: ...
@overload
def chosen(*given: T | None) -> T | None: ...
def chosen(*given: T | None) -> T | None:
    """Give the first that is given."""
    return next((one for one in given if one is not None), None)


def checked(name: str, what: str) -> str:
    """Give a name as it is, in which something may be replaced."""
    if not expanded(as_text(name, what), what):
        msg = f"{what} is empty"
        raise ValueError(msg)
    return name


def expanded(name: str, what: str) -> str:
    """Replace ``{hostname}``, ``{pid}`` and ``{worker}`` in a name."""
    worker = os.environ.get("REDFLOE_WORKER", "1")  # which `redfloe run` sets
    try:
        return name.format(hostname=socket.gethostname(), pid=os.getpid(), worker=worker)
    except (AttributeError, KeyError, IndexError, ValueError, TypeError) as error:
        msg = f"{what} is {name!r}, in which only {{hostname}}, {{pid}} and {{worker}} are replaced"
        raise ValueError(msg) from error
