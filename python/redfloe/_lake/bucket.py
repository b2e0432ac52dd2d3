"""An archive's files in an object store, which has no rename and no lock.

A put is atomic: a file is there whole or not at all. What keeps two archivers apart is a claim for
each file, an object named after the position at which the file begins, that is put only if there is
none: it says which entries the file is going to have. So there is one file for each position. If
its writer dies first, the next archiver writes that file, with the same rows. An archiver that
finds another's claim ends.
"""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from redfloe._errors import FencedError
from redfloe._files import OWN_FOLDER
from redfloe._lake.ranges import is_hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Options that are the HTTP client's, which Polars and delta-rs take among those of the store.
_OF_CLIENT = ("allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url")
_PREFIXES = ("aws_", "azure_", "google_", "")

#: The longest name of a stream in a key, of which all stores take 1,024 bytes.
_LONGEST_NAME = 255


class Bucket:
    """A prefix of an object store, such as ``s3://bucket/lake``."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        try:
            import obstore
            from obstore.exceptions import AlreadyExistsError
            from obstore.store import from_url
        except ImportError:
            msg = "archives in object stores need obstore: pip install 'redfloe[objects]'"
            raise ModuleNotFoundError(msg) from None
        self._url = url.rstrip("/")
        #: What Polars needs to read a file.
        self.storage_options: dict[str, Any] = {"storage_options": dict(storage_options)}
        self._obstore = obstore
        self._exists_error = AlreadyExistsError
        config, client = _divided(storage_options)
        # In obstore's URLs some characters are quoted; Polars takes them as they are.
        scheme, _, place = self._url.partition("://")
        quoted = f"{scheme}://{quote(place, safe='/:@')}"
        self._store: Any = from_url(quoted, config=config, client_options=client)

    def __str__(self) -> str:
        return self._url

    def open(self) -> None:
        """Do nothing: each file is claimed."""

    def close(self) -> None:
        """Do nothing."""

    def names(self) -> Iterator[str]:
        """List the files that readers see, by their paths below the prefix."""
        for page in self._obstore.list(self._store):
            for entry in page:
                name = str(entry["path"])
                if name.endswith(".parquet") and not any(map(is_hidden, name.split("/"))):
                    yield name

    def has(self, folder: str) -> bool:
        """Say whether there is a folder of this name."""
        return any(page for page in self._obstore.list(self._store, folder, chunk_size=1))

    def source(self, name: str) -> str:
        """Give what Polars reads a file by."""
        return f"{self._url}/{name}"

    def claimed(self, stream: bytes, after: str) -> str | None:
        """Give the name of the file that somebody is to write from this position on, if one is."""
        try:
            content = self.get(self._claim(stream, after))
        except FileNotFoundError:
            return None
        return str(json.loads(content)["file"])

    def commit(
        self, stream: bytes, after: str, name: str, write: Callable[[io.BytesIO], object]
    ) -> bool:
        """Have readers see a file, whole, unless it is there; say whether it was not.

        Raises
        ------
        FencedError
            Another archiver writes the entries after this position.
        """
        file = io.BytesIO()
        write(file)
        content = json.dumps({"file": name}).encode()
        is_ours = self.create(self._claim(stream, after), content)
        # Ours, where the store had it and the answer was lost; or one that is finished here.
        if not is_ours and self.claimed(stream, after) != name:
            msg = f"another archiver writes to {self}"
            raise FencedError(msg)
        return self.create(name, file.getvalue())

    # Objects of any kind

    def keys(self) -> list[str]:
        """List all objects below the prefix."""
        return [str(entry["path"]) for page in self._obstore.list(self._store) for entry in page]

    def get(self, name: str) -> bytes:
        """Give what an object has."""
        return bytes(self._obstore.get(self._store, name).bytes())

    def put(self, name: str, content: bytes) -> None:
        """Put an object, also in place of another."""
        self._obstore.put(self._store, name, content)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        with suppress(FileNotFoundError):
            self._obstore.delete(self._store, name)

    def create(self, name: str, content: bytes) -> bool:
        """Put an object where there is none; say whether."""
        try:
            self._obstore.put(self._store, name, content, mode="create", use_multipart=False)
        except self._exists_error:
            return False
        return True

    @staticmethod
    def _claim(stream: bytes, after: str) -> str:
        name = quote(stream, safe="")
        if len(name) > _LONGEST_NAME:
            name = sha256(stream).hexdigest()
        return f"{OWN_FOLDER}/claims/stream={name}/{after}.json"


def _divided(options: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Divide what Polars and delta-rs take as one into the store's and the HTTP client's."""
    client = {prefix + name: name for prefix in _PREFIXES for name in _OF_CLIENT}
    # obstore takes the store's from the environment, and not the client's, as the others do.
    named = {key for key in client if key not in _OF_CLIENT}
    surroundings = {key: value for key, value in os.environ.items() if key.lower() in named}
    config: dict[str, str] = {}
    of_client: dict[str, Any] = {}
    for key, value in (surroundings | dict(options)).items():
        name = client.get(key.lower())
        if name is None:
            config[key] = str(value)
        else:
            is_flag = name.startswith("allow")
            of_client[name] = str(value).lower() in ("true", "1") if is_flag else value
    return config, of_client
