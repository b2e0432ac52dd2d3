"""Single values as callers give them, in builtin types whose text is always the same."""

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from numbers import Integral, Rational, Real

_MINUTE = timedelta(minutes=1)


def builtin(value: object) -> object:
    """Give a number, a datetime or a time as a builtin: subclasses have texts of their own.

    What NumPy and pandas give are such: a mean is a float whose repr is ``np.float64(2.5)``. A
    missing time (``pd.NaT``) is None. Anything else is given as it is.
    """
    match value:
        case bool():
            return value
        case _ if type(value).__module__ == "numpy" and type(value).__name__ in {"bool", "bool_"}:
            return bool(value)
        case Integral() if type(value).__name__ == "timedelta64":  # which says that it is one
            return value
        case Integral():
            return int(value)
        case Real() if not isinstance(value, Rational):
            return float(value)
        case Decimal():
            return Decimal(value)
        case datetime() if value != value:  # noqa: PLR0124 - as only NaT is
            return None
        # As in zones before standard time: the offset has seconds, and no text in ISO 8601.
        case datetime() if (value.utcoffset() or timedelta()) % _MINUTE:
            return value.astimezone(UTC)
        case time(tzinfo=zone) if zone is not None:
            msg = f"{value!r} has a time zone, and a Time has none; pass value.replace(tzinfo=None)"
            raise ValueError(msg)
    return value
