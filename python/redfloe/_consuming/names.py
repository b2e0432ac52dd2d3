"""What the checkpoints of a worker are called in their store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redfloe._schema import as_text

if TYPE_CHECKING:
    from redfloe._arguments import Request


class CheckpointNames:
    """The names of a worker's checkpoints, one for each stream, by the streams' keys."""

    def __init__(self, name: str | None, request: Request) -> None:
        """Take the caller's name, where there is one: with several streams it is a prefix."""
        self._name = None if name is None else as_text(name, "checkpoint_name")
        self._many = request["many"]
        self._member = request["group"]

    def over_shards(self, request: Request) -> None:
        """Name the checkpoints of a sharded stream's shards from now on."""
        self._many = request["many"]

    def of(self, key: bytes) -> str:
        """Give the name of a stream's checkpoint."""
        if self._name is not None:
            return self._name if self._many is None else f"{self._name}:{_quoted(key, '%:')}"
        if self._member is not None:
            parts = (key, self._member["group"], self._member["consumer"])
            return ":".join(_quoted(one, "%:") for one in parts)
        # A key is the name of its checkpoint, unless it could be that of a group's.
        return _quoted(key, "%:" if key.count(b":") == _COLONS else "%")

    @property
    def begun(self) -> str:
        """The name of what says that a pattern's streams have been followed before."""
        pattern = None if self._many is None else self._many["pattern"]
        text = _quoted(pattern[0] if pattern is not None else b"", "%:")
        # No key's name has such a percent sign.
        return f"%pattern:{text}" if self._name is None else f"{self._name}:%pattern"


#: In the name of a group's checkpoint.
_COLONS = 2


def _quoted(key: bytes, characters: str) -> str:
    """Give a key as text, with these characters and what is no UTF-8 as in a URL."""
    text = key.decode(errors="surrogateescape")
    return "".join(
        "".join(f"%{byte:02X}" for byte in one.encode(errors="surrogateescape"))
        if one in characters or "\udc80" <= one <= "\udcff"
        else one
        for one in text
    )
