"""Spark's columns and ours: both speak Arrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import (
    ArrayType,
    CalendarIntervalType,
    DataType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
    VariantType,
    YearMonthIntervalType,
)

from redfloe._errors import SchemaError
from redfloe._reading.infer import infer_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redfloe._options import ReadOptions
    from redfloe._reading.partitions import StreamPartition
    from redfloe._spark.options import Options

#: The columns that are no fields, and what Spark may take them as.
OURS: dict[str, tuple[type, ...]] = {
    "_id": (StringType,),
    "_ts": (TimestampType, LongType),
    "_seq": (LongType,),
    "_stream": (StringType,),
}

_MILLISECONDS = pl.Datetime("ms", "UTC")


def inferred_type(options: Options) -> StructType:
    """Give the columns of a read without a schema, by a sample of the entries."""
    decoding: Any = options.decoding
    rescue = decoding.pop("rescue_column", None)
    decoding.pop("on_error", None)
    fields = infer_schema(options.url, options.stream, **decoding)
    columns = [StructField("_id", StringType()), StructField("_ts", TimestampType())]
    if not isinstance(options.stream, str):
        columns.insert(0, StructField("_stream", StringType()))
    # Of as many dtypes as Spark has; a duration is a number to it.
    arrow = pl.DataFrame(schema=fields).to_arrow().schema
    columns += from_arrow_schema(arrow).fields
    columns += [StructField(rescue, StringType())] if rescue else []
    return StructType(columns)


def refuse_types(schema: StructType, remedy: str) -> None:
    """Refuse columns whose values have no text of their own."""
    for column in schema.fields:
        if (kind := _textless(column.dataType)) is not None:
            within = "" if kind is column.dataType else f" within {column.dataType.simpleString()}"
            msg = f"the column {column.name} has the type {kind.simpleString()}{within}: {remedy}"
            raise ValueError(msg)


def _textless(kind: DataType) -> DataType | None:
    match kind:
        case MapType() | VariantType() | YearMonthIntervalType() | CalendarIntervalType():
            return kind
        case ArrayType():
            return _textless(kind.elementType)
        case StructType():
            return next(filter(None, (_textless(field.dataType) for field in kind.fields)), None)
    return None


class Columns:
    """How the entries of partitions become the record batches that Spark wants."""

    def __init__(self, schema: StructType, options: Options) -> None:
        refuse_types(schema, "read it as string, and convert that by from_json or parse_json")
        self._arrow = to_arrow_schema(schema, timezone="UTC")
        self._batch_size = options.number("batchSize", 10_000)
        types = {column.name: column.dataType for column in schema.fields}
        for name, allowed in OURS.items():
            if name in types and not isinstance(types[name], allowed):
                names = " or ".join(kind().simpleString() for kind in allowed)
                msg = f"the column {name} must be {names}, not {types[name].simpleString()}"
                raise ValueError(msg)
        decoding: Any = options.decoding
        rescue = decoding.get("rescue_column")
        fields = [name for name in types if name not in OURS and name != rescue]
        wanted = pa.schema([self._arrow.field(name) for name in fields])
        empty = pl.DataFrame(wanted.empty_table())
        self._fields = empty.schema
        is_time = isinstance(types.get("_ts"), TimestampType)
        self._options: ReadOptions = decoding | {
            "include_id": "_id" in types,
            "include_timestamp": "_ts" in types,
            "include_sequence": "_seq" in types,
            "include_stream": "_stream" in types,
            "timestamp_dtype": _MILLISECONDS if is_time else pl.Int64(),
        }

    def batches(self, partition: StreamPartition) -> Iterator[pa.RecordBatch]:
        """Read a partition."""
        reader = partition.reader(self._fields, batch_size=self._batch_size, **self._options)
        for batch in pa.RecordBatchReader.from_stream(reader):
            columns = [
                batch.column(column.name).cast(column.type, safe=False) for column in self._arrow
            ]
            for column, values in zip(self._arrow, columns, strict=True):
                if values.null_count and not column.nullable:
                    msg = (
                        f"some entries have no {column.name}, whose column may have no null by "
                        "the schema"
                    )
                    raise SchemaError(msg)
            # Also where there are no columns, of which only this tells the number of rows.
            yield (
                pa.RecordBatch.from_struct_array(
                    pa.StructArray.from_arrays(columns, fields=[*self._arrow])
                )
                if columns
                else batch
            )
