"""The exceptions that redfloe raises.

Each has two bases: `RedfloeError`, for whoever wants all of them, and the builtin that fits, for
whoever writes `except ConnectionError`. Arguments that cannot be right raise plain `ValueError` or
`TypeError`, before any byte is sent.
"""


class RedfloeError(Exception):
    """The root of redfloe's exceptions.

    Attributes
    ----------
    code : str or None
        The server's error code, such as ``"WRONGTYPE"``, where the server answered with one.
    """

    code: str | None

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class RedisConnectionError(RedfloeError, ConnectionError):
    """The server cannot be reached, or the connection was lost and retries did not help."""


class RedisTimeoutError(RedfloeError, TimeoutError):
    """The server did not answer within `connect_timeout` or `response_timeout`."""


class AuthenticationError(RedfloeError, PermissionError):
    """The server refused the user or password, or the user lacks a permission (ACL)."""


class ResponseError(RedfloeError):
    """The server answered with an error, or with bytes that are not RESP."""


class WrongTypeError(RedfloeError, TypeError):
    """The key holds something other than a stream."""


class NoGroupError(RedfloeError, LookupError):
    """The consumer group does not exist."""


class SchemaError(RedfloeError, ValueError):
    """The schema contradicts itself, or a field bears the name of a metadata column."""


class DecodeError(RedfloeError, ValueError):
    """A field's text does not fit its dtype; the message names the entry, field, dtype and text."""


class CheckpointError(RedfloeError, ValueError):
    """What a checkpoint store holds is not a checkpoint; it is never taken for a missing one."""


class DataLossError(RedfloeError):
    """Entries that should have been read are gone from the stream."""


class FencedError(RedfloeError):
    """Another worker has taken over what this one owned."""


# Where users find them, so that is what a traceback says.
for _error in (RedfloeError, *RedfloeError.__subclasses__()):
    _error.__module__ = "redfloe"
