"""Types of what functions take, to annotate your own variables and functions with.

A type checker infers ``dict[str, object]`` for a dict of dtypes of several kinds. Annotated, it is
a schema: ``schema: SchemaLike = {"total": pl.Decimal(10, 2), "paid": pl.Boolean}``.
"""

from redfloe._arguments import Streams
from redfloe._checks import Milliseconds
from redfloe._consuming.retry import ExceptionPolicy
from redfloe._ids import EntryIdLike
from redfloe._options import ColumnOptions, DecodeOptions, ReadOptions
from redfloe._schema import DtypeLike, SchemaLike
from redfloe._write_arguments import NullTexts
from redfloe._writing.fields import Fields

__all__ = [
    "ColumnOptions",
    "DecodeOptions",
    "DtypeLike",
    "EntryIdLike",
    "ExceptionPolicy",
    "Fields",
    "Milliseconds",
    "NullTexts",
    "ReadOptions",
    "SchemaLike",
    "Streams",
]
