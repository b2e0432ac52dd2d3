"""Which columns an archive has, and what becomes of a field that it does not have yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from redfloe._errors import SchemaError
from redfloe._lake.ranges import TIME_PARTS
from redfloe._schema import as_schema, timestamp_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redfloe._options import ReadOptions
    from redfloe._schema import SchemaLike


class Columns:
    """The columns of an archive: those of entries, the fields, and the rescue column."""

    def __init__(
        self,
        schema: SchemaLike | None,
        options: ReadOptions,
        on_new_fields: str,
        partitions: Iterable[str],
        *,
        is_of_several: bool,
    ) -> None:
        self.options = _completed(options, on_new_fields, is_of_several=is_of_several)
        self._is_of_several = is_of_several
        self._schema = None if schema is None else as_schema(schema)
        overrides = options["schema_overrides"]
        #: What the caller says of the fields.
        self._given = self._schema or as_schema({} if overrides is None else overrides)
        self._on_new_fields = on_new_fields
        #: The partitions that are no fields.
        self._partitions = [part for part in partitions if part in TIME_PARTS]
        self._fields = pl.Schema(self._given)
        #: Whether it is settled which fields are new.
        self._is_known = self._schema is not None

    @property
    def _own(self) -> list[str]:
        """Give the columns that are no fields, in their order."""
        options, several = self.options, bool(self.options["include_stream"])
        names = [options["id_column"], options["timestamp_column"]]
        names += [options["sequence_column"]] if options["include_sequence"] else []
        names += [options["stream_column"]] if several else []
        return names

    def begin(self, archived: pl.Schema, stored: Callable[[Any], Any]) -> None:
        """Go on with the columns that there are.

        Raises
        ------
        SchemaError
            The caller's dtypes are not those of the archive, whose `stored` they become.
        """
        # Of several streams it is in the folders' names, or comes after the fields.
        stream = self.options["stream_column"] if self._is_of_several else None
        self._check_own([name for name in self._own if name != stream], archived, stored)
        no_fields = {*self._own, self.options["rescue_column"], stream}
        fields = {name: dtype for name, dtype in archived.items() if name not in no_fields}
        for name, dtype in fields.items():
            given = self._given.get(name)
            if given is not None and stored(given) != dtype:
                msg = (
                    f"the archive has the field {name!r} as {dtype}, and not as {given}: read it "
                    "as it is there, or archive to another place"
                )
                raise SchemaError(msg)
        self._fields = pl.Schema({**fields, **self._given})
        self._is_known = self._is_known or bool(fields)
        for name in self._fields:
            self._check_partition(name)

    def _check_own(self, own: list[str], archived: pl.Schema, stored: Callable[[Any], Any]) -> None:
        """Refuse other names or dtypes of the columns that are no fields, and come first."""
        if not archived:
            return
        there = [*archived][: len(own)]
        if there != own:
            msg = (
                f"the archive begins with the columns {there}, and not with {own}: keep the names "
                "that it has, or archive to another place"
            )
            raise SchemaError(msg)
        times = self.options["timestamp_column"]
        (dtype,) = timestamp_schema(self.options["timestamp_dtype"]).values()
        given = stored(dtype)
        if archived[times] != given:
            msg = (
                f"the archive has {times!r} as {archived[times]}, and not as {given}: keep its "
                "timestamp_dtype, or archive to another place"
            )
            raise SchemaError(msg)

    @property
    def is_to_be_inferred(self) -> bool:
        """Whether the fields have to be known before anything is read, and are not."""
        return self._on_new_fields in ("rescue", "ignore") and not self._is_known

    def infer(self, fields: pl.Schema) -> None:
        """Take the fields of a sample."""
        if not fields:
            msg = (
                f'on_new_fields="{self._on_new_fields}" needs a schema, as long as there is no '
                "entry to tell the fields by"
            )
            raise ValueError(msg)
        self._fields, self._is_known = pl.Schema({**fields, **self._fields}), True
        for name in self._fields:
            self._check_partition(name)

    @property
    def inferring(self) -> tuple[None, ReadOptions]:
        """Give the options by which to have the fields of a sample."""
        return None, {**self.options, "schema_overrides": self._fields or None}

    @property
    def reading(self) -> tuple[pl.Schema | None, ReadOptions]:
        """Give the schema and the options by which to read."""
        if self._on_new_fields in ("add", "raise"):
            return self.inferring
        options: ReadOptions = {
            **self.options,
            "schema_overrides": None,
            "infer_schema": False,
        }
        return self._schema if self._schema is not None else self._fields, options

    def fit(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Give rows the columns of the archive, in their order.

        Raises
        ------
        SchemaError
            There is a field that the archive does not have, and that is to raise; or one that is
            called as the partitions are.
        """
        rescue = self.options["rescue_column"]
        own = [*self._own, *([] if rescue is None else [rescue])]
        new = [name for name in frame.columns if name not in own and name not in self._fields]
        if new and self._on_new_fields == "raise" and self._is_known:
            first = frame.filter(pl.col(new[0]).is_not_null())[self.options["id_column"]]
            msg = (
                f"entry {first[0]} has the field {new[0]!r}, which the archive does not have; "
                'pass on_new_fields="add" to have a column for it, or "rescue"'
            )
            raise SchemaError(msg)
        for name in new:
            self._check_partition(name)
            self._fields[name] = frame.schema[name]
        self._is_known = True
        lacking = [
            pl.lit(None, dtype).alias(name)
            for name, dtype in self._fields.items()
            if name not in frame.columns
        ]
        names = [*self._own, *self._fields, *([] if rescue is None else [rescue])]
        return frame.with_columns(lacking).select(names)

    def _check_partition(self, name: str) -> None:
        if name in self._partitions:
            others = [part for part in ("date", "day") if part not in self._partitions]
            hint = f'; partition_by="{others[0]}" is called otherwise' if others else ""
            msg = f"there is a field {name!r}, as the partitions are called{hint}"
            raise SchemaError(msg)


def _completed(options: ReadOptions, on_new_fields: str, *, is_of_several: bool) -> ReadOptions:
    for name in ("include_id", "include_timestamp"):
        if not options[name]:
            msg = f"{name} has to be True: an archive is divided by the entries' IDs"
            raise ValueError(msg)
    if is_of_several and options["include_stream"] is False:
        msg = "include_stream has to be True where there are several streams"
        raise ValueError(msg)
    if on_new_fields == "rescue" and options["rescue_column"] is None:
        options = {**options, "rescue_column": "_rescued"}
    return {**options, "include_stream": is_of_several or bool(options["include_stream"])}
