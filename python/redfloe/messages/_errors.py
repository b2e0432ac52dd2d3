"""What goes wrong with messages."""

from redfloe._errors import RedfloeError


class MisfitError(RedfloeError, ValueError):
    """An entry is no event of its model, and the app is to raise that: ``on_misfit="raise"``."""


class UnknownTypeError(RedfloeError, LookupError):
    """No handler takes an entry's type, and the app is to raise that: ``on_unknown="raise"``."""


class NotDoneError(RedfloeError, RuntimeError):
    """A handler returned False, and its message is committed with others: it is tried again."""
