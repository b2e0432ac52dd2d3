"""What a call of `archive` gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArchiveResult:
    """What a call of `archive` has done, and where the archive is.

    Attributes
    ----------
    entries : int
        How many entries this call has archived.
    offsets : dict of str to str
        The last ID that is archived of each stream; one of which nothing is has none.
    trimmed : int
        How many entries this call has trimmed from the streams.
    """

    entries: int
    offsets: dict[str, str]
    trimmed: int
