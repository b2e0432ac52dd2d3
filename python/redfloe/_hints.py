"""What a name that nobody knows was probably meant to be."""

from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str], shown: str = "{}") -> str:
    """Ask whether the nearest known name is meant, in a phrase; nothing where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), known, n=1)
    return shown.format(f"did you mean {near[0]!r}?") if near else ""
