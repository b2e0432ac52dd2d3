"""What goes wrong with messages."""

from redfloe._errors import DecodeError, RedfloeError


class MisfitError(RedfloeError, ValueError):
    """An entry is no event of its model, and the app is to raise that: ``on_misfit="raise"``."""


class UnknownTypeError(RedfloeError, LookupError):
    """No handler takes an entry's type, and the app is to raise that: ``on_unknown="raise"``."""


class NotDoneError(RedfloeError, RuntimeError):
    """A handler returned False, and its message is committed with others: it is tried again."""


def misfit_of(error: DecodeError, stream: str) -> MisfitError:
    """Give what an entry is of which the reader could not make anything."""
    what = str(error).partition(";")[0].partition(" (entry ID:")[0]
    msg = (
        f"the entry {error.entry_id} of {stream!r} cannot be read: {what}; with a dead_letter such "
        "entries are put aside"
    )
    return MisfitError(msg)
