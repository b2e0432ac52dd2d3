"""Payloads in columns as Polars expressions: ``pl.col("data").redfloe.decode("msgpack", dtype)``.

Importing this module, or `redfloe` after Polars, gives expressions the namespace ``redfloe``. Its
methods are the functions of this module, which type checkers know as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import polars as pl
from polars.plugins import register_plugin_function

from redfloe_expressions import _plugin
from redfloe_expressions._schemas import PayloadSchemaOptions, schema_text

if TYPE_CHECKING:
    from typing import Unpack

    from polars.datatypes import DataType, DataTypeClass

#: Names of fields with their dtypes, or these as a Struct.
DtypeLike: TypeAlias = "Mapping[str, DataType | DataTypeClass | type] | pl.Struct"
OnError: TypeAlias = Literal["raise", "null"]
PayloadCompression: TypeAlias = Literal["zstd", "gzip"]
PayloadFormat: TypeAlias = Literal["json", "msgpack", "protobuf", "avro"]

__all__ = [
    "DtypeLike",
    "Expressions",
    "OnError",
    "PayloadCompression",
    "PayloadFormat",
    "PayloadSchemaOptions",
    "decode",
    "encode",
    "entry_id",
]


def decode(
    column: pl.Expr | str,
    payload_format: PayloadFormat,
    dtype: DtypeLike | None = None,
    *,
    payload_path: str | None = None,
    payload_fields: Sequence[str] | None = None,
    payload_compression: PayloadCompression | None = None,
    payload_max_bytes: int | None = None,
    null_values: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    on_error: OnError = "raise",
    rescue_column: str | None = None,
    **schema_options: Unpack[PayloadSchemaOptions],
) -> pl.Expr:
    """Decode payloads into Structs.

    Each payload becomes what ``redfloe.read_stream(payload=...)`` makes of it: a key that is
    missing is null, one that the dtype does not name is passed over. A payload that is null or
    empty becomes null.

    Parameters
    ----------
    column : polars.Expr or str
        Payloads, of String or Binary.
    payload_format : {"json", "msgpack", "protobuf", "avro"}
        How they are written: as JSON objects, as maps of MessagePack, as Protobuf messages, or as
        Avro records.
    dtype : mapping, polars.Schema or polars.Struct
        The fields of the result, with their dtypes. They are what the result has, whatever the
        payloads hold, so that the planner of a lazy query knows them. Protobuf and Avro tell them,
        so there it may be missing; one that is given chooses fields, or reads them as others.
    payload_path : str, optional
        Decode an object inside each payload, such as ``"$.after"``.
    payload_fields : sequence of str, optional
        The names of the values, where payloads are arrays in place of objects.
    payload_compression : {"zstd", "gzip"}, optional
        How each payload is compressed.
    payload_max_bytes : int, optional
        What a compressed payload may become: 16 MiB unless this says otherwise.
    null_values : str, sequence of str or mapping, optional
        Texts that mean null; or those of single fields, by name.
    on_error : {"raise", "null"}, default "raise"
        ``"raise"`` ends the query with a `polars.exceptions.ComputeError` that says which row does
        not fit, and why; ``"null"`` makes the value null, or the row where it is no payload at all.
    rescue_column : str, optional
        Adds a field of this name, of JSON, with what did not fit and what the dtype does not name.
        Then nothing raises.
    **schema_options
        What payloads are by. For Protobuf: `descriptor`, a serialised ``FileDescriptorSet`` or the
        path of one, and `message`, the full name. For Avro: `schema`, `reader_schema`, `framing`
        and `schema_id`, as for `redfloe.AvroSchema`, where several schemas are a mapping of IDs.

    Returns
    -------
    polars.Expr
        A Struct in each row.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be right.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe_expressions as rfx
    >>> df = pl.DataFrame({"data": ['{"sku": "a-1", "qty": 2}', '{"sku": "a-2"}', None]})
    >>> df.select(rfx.decode("data", "json", {"sku": pl.String, "qty": pl.Int64})).rows()
    [({'sku': 'a-1', 'qty': 2},), ({'sku': 'a-2', 'qty': None},), (None,)]
    """
    everywhere, by_field = _null_values(null_values)
    options = _plugin.decode_options(
        None if dtype is None else _schema(dtype),
        payload_format=payload_format,
        payload_schema=schema_text(payload_format, schema_options),
        compression=payload_compression,
        max_bytes=payload_max_bytes,
        path=payload_path,
        positions=_texts(payload_fields or [], "payload_fields"),
        null_values=everywhere,
        null_values_by_field=by_field,
        on_error=on_error,
        rescue_column=rescue_column,
    )
    return _expression("decode", column, options)


def encode(
    column: pl.Expr | str,
    payload_format: PayloadFormat,
    *,
    payload_compression: PayloadCompression | None = None,
    **schema_options: Unpack[PayloadSchemaOptions],
) -> pl.Expr:
    """Encode Structs as payloads, as ``redfloe.write_stream(payload=...)`` writes them.

    A null value is a key that its payload lacks; where a Struct is null, so is its payload.

    Parameters
    ----------
    column : polars.Expr or str
        Structs; ``pl.struct(...)`` makes them of columns.
    payload_format : {"json", "msgpack", "protobuf", "avro"}
        How payloads are written.
    payload_compression : {"zstd", "gzip"}, optional
        Compresses each payload.
    **schema_options
        What payloads are by, as for `decode`.

    Returns
    -------
    polars.Expr
        String where payloads are plain JSON, else Binary.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be right.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe_expressions as rfx
    >>> df = pl.DataFrame({"sku": ["a-1", None], "qty": [2, 1]})
    >>> df.select(rfx.encode(pl.struct("sku", "qty").alias("data"), "json"))["data"].to_list()
    ['{"sku":"a-1","qty":2}', '{"qty":1}']
    """
    options = _plugin.encode_options(
        payload_format=payload_format,
        payload_schema=schema_text(payload_format, schema_options),
        compression=payload_compression,
    )
    return _expression("encode", column, options)


def entry_id(column: pl.Expr | str, *, on_error: OnError = "raise") -> pl.Expr:
    """Split entry IDs into a Struct of ``ms`` and ``seq``, which sorts as Redis does.

    As text, ``"9-0"`` is greater than ``"10-0"``.

    Parameters
    ----------
    column : polars.Expr or str
        Entry IDs, ``"ms-seq"``, as reads give them.
    on_error : {"raise", "null"}, default "raise"
        What becomes of a text that is no entry ID: a `polars.exceptions.ComputeError`, or null.

    Returns
    -------
    polars.Expr
        A Struct of two UInt64 in each row.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be right.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe_expressions as rfx
    >>> df = pl.DataFrame({"_id": ["10-0", "9-1", "9-0"]})
    >>> df.sort(rfx.entry_id("_id"))["_id"].to_list()
    ['9-0', '9-1', '10-0']
    """
    return _expression("entry_id", column, _plugin.entry_id_options(on_error=on_error))


class Expressions:
    """The namespace ``redfloe`` of expressions; see the functions of this module."""

    def __init__(self, expr: pl.Expr) -> None:
        self._expr = expr

    def decode(
        self,
        payload_format: PayloadFormat,
        dtype: DtypeLike | None = None,
        *,
        payload_path: str | None = None,
        payload_fields: Sequence[str] | None = None,
        payload_compression: PayloadCompression | None = None,
        payload_max_bytes: int | None = None,
        null_values: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        on_error: OnError = "raise",
        rescue_column: str | None = None,
        **schema_options: Unpack[PayloadSchemaOptions],
    ) -> pl.Expr:
        """Decode payloads into Structs: see `decode`."""
        return decode(
            self._expr,
            payload_format,
            dtype,
            payload_path=payload_path,
            payload_fields=payload_fields,
            payload_compression=payload_compression,
            payload_max_bytes=payload_max_bytes,
            null_values=null_values,
            on_error=on_error,
            rescue_column=rescue_column,
            **schema_options,
        )

    def encode(
        self,
        payload_format: PayloadFormat,
        *,
        payload_compression: PayloadCompression | None = None,
        **schema_options: Unpack[PayloadSchemaOptions],
    ) -> pl.Expr:
        """Encode Structs as payloads: see `encode`."""
        return encode(
            self._expr, payload_format, payload_compression=payload_compression, **schema_options
        )

    def entry_id(self, *, on_error: OnError = "raise") -> pl.Expr:
        """Split entry IDs into milliseconds and sequence number: see `entry_id`."""
        return entry_id(self._expr, on_error=on_error)


def _expression(name: str, column: object, options: str) -> pl.Expr:
    if not isinstance(column, pl.Expr | str):
        msg = f"column must be an expression or a name, not {type(column).__name__}"
        raise TypeError(msg)
    return register_plugin_function(
        plugin_path=_plugin.__file__,
        function_name=name,
        args=column,
        kwargs={"options": options},
        is_elementwise=True,
    )


def _schema(dtype: object) -> pl.Schema:
    if isinstance(dtype, pl.Struct):
        return pl.Schema({field.name: field.dtype for field in dtype.fields})
    if isinstance(dtype, Mapping):
        # It has no parameters that say anything, but Polars wants an instance.
        categories = {name for name, one in dtype.items() if one is pl.Categorical}
        return pl.Schema({**dtype, **dict.fromkeys(categories, pl.Categorical())})
    msg = f"dtype must be a mapping of names to dtypes, or a pl.Struct of them, not {dtype!r}"
    raise TypeError(msg)


def _null_values(values: object) -> tuple[list[str], dict[str, list[str]]]:
    if isinstance(values, Mapping):
        return [], {name: _texts(texts, "null_values") for name, texts in values.items()}
    return [] if values is None else _texts(values, "null_values"), {}


def _texts(texts: object, parameter: str) -> list[str]:
    if isinstance(texts, str) and parameter == "null_values":
        return [texts]
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        msg = f"{parameter} must be a list of str, not {texts!r}"
        raise TypeError(msg)
    return [*texts]


if "redfloe" not in vars(pl.Expr):
    pl.api.register_expr_namespace("redfloe")(Expressions)
