"""Words for messages: what is counted, and what a name that nobody knows was meant to be."""

from collections.abc import Iterable


def counted(number: int, one: str, many: str, spec: str = "") -> str:
    """Give a number and what it counts, for a message: ``1 row``, but ``2 rows``."""
    return f"{number:{spec}} {one if number == 1 else many}"


def readable(name: bytes) -> str:
    r"""Give a name as text, with ``\xff`` for a byte that is not UTF-8."""
    return name.decode(errors="backslashreplace")


def did_you_mean(name: object, known: Iterable[str], shown: str = "{}") -> str:
    """Ask whether the nearest known name is meant, in a phrase; nothing where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), known, n=1)
    return shown.format(f"did you mean {near[0]!r}?") if near else ""


def hint_for(missing: list[str], present: list[str], payload: str | None) -> str:
    """Say what to write instead of fields that no entry has had."""
    for name in missing:
        first, dot, rest = name.partition(".")
        if dot and first in present:
            return f"nested keys are a Struct: {{{first!r}: {{{rest!r}: ...}}}}"
        near = did_you_mean(name, [one for one in present if one != name])
        if near:
            return near
    if payload is None and len(present) == 1:
        return f"if {present[0]!r} holds a JSON document, pass payload={present[0]!r}"
    return "they are null"
