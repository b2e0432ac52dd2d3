"""Rows that appear in a Delta table once a commit names them.

A batch's rows are written aside as Parquet files, below the table's folder ``_redfloe``, and then a
list of those that count, ``<batch>.json``. The processor's commit names that batch; only then are
its rows added to the table, in one transaction that also has the batch's number, made of its name,
and its last entry. So that number and what Redis names tell at any time what there is still to do:
to add the rows of a commit whose process has died, or nothing; anything else means that one of the
two has gone back. Rows are never added twice: they are only added after the batch that the list
says, and of two transactions at the same time Delta refuses one.
"""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import polars as pl

from redfloe._errors import DataLossError, FencedError, SchemaError
from redfloe._files import OWN_FOLDER
from redfloe._lake.aside import files_at
from redfloe._lake.delta_table import DeltaTable
from redfloe._processing.staging import batch_range
from redfloe._reading.offsets import as_pair

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

#: What was written aside for a batch: its epoch, what no other has, and what it is.
_OWN = re.compile(r"(\d+-\d+_\d+-\d+\.(\d+)-[0-9a-f]{32})(\.\d+\.part|\.json)(\.new)?")
_IDENTITY = "sink.json"


class DeltaStaging:
    """A processor's part of a table."""

    def __init__(
        self,
        to: str | os.PathLike[str],
        partition_by: Sequence[str],
        storage_options: Mapping[str, Any] | None,
        owner: Mapping[str, str | None],
    ) -> None:
        self._table = DeltaTable(to, partition_by, storage_options)
        self._partition_by = partition_by
        self.place = self._table.place
        self._owner = owner
        whose = ":".join(quote(str(part), safe="") for part in owner.values())
        #: What the table's log has the processor's position under.
        self._position = f"redfloe:sink:{whose}"
        #: And the number of the batch that it has last.
        self._batch = f"{self._position}:batch"
        folder = f"{OWN_FOLDER}/sinks/{sha256(whose.encode()).hexdigest()[:32]}"
        self._aside = files_at(self.place, folder, storage_options)
        self.name = ""
        #: The number that the table had, when it was as Redis says.
        self._after: int | None = None
        #: The columns of the batch in hand, as far as they are known, and which batch that is.
        self._fitted: tuple[str, dict[str, Any]] = ("", {})
        self._lock = Lock()

    def open(self) -> str:
        """Give what this part of the table is known by."""
        try:
            known = self._aside.get(_IDENTITY)
        except FileNotFoundError:
            identity = {"sink": uuid4().hex, **self._owner}
            self._aside.create(_IDENTITY, json.dumps(identity, indent=1).encode())
            known = self._aside.get(_IDENTITY)
        self.name = str(json.loads(known)["sink"])
        return self.name

    def fit(self, batch: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Give rows the dtypes that the table has, and that others of the batch have.

        What would not fit later would be committed by then.

        Raises
        ------
        SchemaError
            They do not fit.
        """
        for key in self._partition_by:
            if key not in frame.columns:
                msg = f"there is no column {key!r} to partition by; the frame has {frame.columns}"
                raise SchemaError(msg)
        if nulls := [name for name, dtype in frame.schema.items() if dtype == pl.Null]:
            frame = frame.with_columns(pl.col(nulls).cast(pl.String))
        frame = self._table.as_stored(frame)
        with self._lock:
            if self._fitted[0] != batch:
                self._fitted = (batch, dict(self._table.schema))
            known = self._fitted[1]
            wanted = {}
            for name, dtype in frame.schema.items():
                if name in nulls and name not in known:
                    msg = (
                        f"the column {name!r} has no dtype, being null everywhere, and the table "
                        "does not have it yet: cast it"
                    )
                    raise SchemaError(msg)
                wanted[name] = known.get(name, dtype)
                if name not in nulls and not _fits(dtype, wanted[name]):
                    msg = (
                        f"the column {name!r} is {wanted[name]} in the table {self.place}, and not "
                        f"{dtype}: cast it"
                    )
                    raise SchemaError(msg)
            # Of names, too, that Delta takes for one.
            self._table.as_stored(pl.DataFrame(schema={**known, **wanted}))
            try:
                frame = frame.cast(pl.Schema(wanted))
            except pl.exceptions.PolarsError as error:
                msg = f"the rows do not fit the table {self.place}: {error}"
                raise SchemaError(msg) from error
            known.update(wanted)
        return frame

    def stage(
        self,
        batch: str,
        first: int,
        frames: Iterable[pl.DataFrame],
        write: Callable[[pl.DataFrame, Any], object],
    ) -> None:
        """Write files aside, with numbers from `first` on."""
        for number, frame in enumerate(frames, first):
            content = io.BytesIO()
            write(frame, content)
            self._aside.put(_part(batch, number), content.getvalue())

    def write_list(self, batch: str, targets: Mapping[int, Path]) -> None:
        """List a batch's files, by their numbers; others are of writes that were given up."""
        content = {"parts": sorted(targets), "after": self._after}
        self._aside.put(f"{batch}.json", json.dumps(content).encode())

    def publish(self, batch: str, before: str | None = None) -> None:  # noqa: ARG002 -- as files'
        """Have readers see a batch's rows, unless they do already.

        Raises
        ------
        FencedError
            Another process has added rows after those of another batch.
        """
        self._table.look()
        if not self._has(batch) and not self._added(batch):
            self._table.look()
            if not self._has(batch):
                msg = f"another process of this processor has changed {self.place}"
                raise FencedError(msg)
        self._after = _number(batch)
        self._clear(batch)

    def _has(self, batch: str) -> bool:
        """Whether the table has the rows of this batch, as the last one."""
        return self._table.number(self._batch) == _number(batch)

    def _added(self, batch: str) -> bool:
        """Add a batch's rows, if it comes next and all was written aside; say whether."""
        try:
            listed = json.loads(self._aside.get(f"{batch}.json"))
            if self._table.number(self._batch) != listed["after"]:
                return False
            parts = [self._aside.get(_part(batch, number)) for number in listed["parts"]]
        except FileNotFoundError:  # another process was quicker
            return False
        rows = pl.concat([pl.read_parquet(io.BytesIO(part)) for part in parts], how="diagonal")
        try:
            self._table.append(
                rows,
                {self._position: batch_range(batch)[1]},
                lambda: self._table.number(self._batch) != listed["after"],
                numbers={self._batch: _number(batch)},
            )
        except FencedError:
            return False
        return True

    def settle(self, batch: str | None, epoch: int, position: str) -> None:
        """Have the table be as after the batch that was committed last.

        Raises
        ------
        DataLossError
            The table has, or lacks, rows of other batches than Redis knows of; or the processor is
            to read entries again whose rows are there.
        """
        self._table.look()
        if batch is not None and as_pair(position) >= as_pair(batch_range(batch)[1]):
            is_settled = self._has(batch) or self._added(batch)
        else:
            reached = self._table.position(self._position)
            is_settled = batch is None and (
                reached is None or as_pair(reached) <= as_pair(position)
            )
        if not is_settled:
            raise DataLossError(self._gone_back(batch, position))
        self._after = self._table.number(self._batch) if batch is None else _number(batch)
        for match in filter(None, map(_OWN.fullmatch, self._aside.names())):
            # One of a later epoch belongs to the process that has superseded this one.
            if match[1] == batch or int(match[2]) < epoch:
                self._aside.delete(match[0])

    def _gone_back(self, batch: str | None, position: str) -> str:
        """Say whether the table or the server has, and what to do."""
        end = position if batch is None else batch_range(batch)[1]
        reached = self._table.position(self._position) or "0-0"
        if as_pair(position) < as_pair(end) or as_pair(reached) > as_pair(end):
            return (
                f"{self.place} has rows of entries after {position}, where the processor is: the "
                "server has lost commits, or the processor was reset or deleted. These rows would "
                "be written again: give the sink a new table"
            )
        return (
            f"{self.place} lacks the rows of the batch that was committed last, "
            f"{'_'.join(batch_range(batch or ''))}: they are in a table elsewhere, or were "
            "deleted. Restore the table, or give the sink a new one"
        )

    def discard(self, batch: str) -> None:
        """Delete what was written aside, as far as that is possible: the next to settle does it."""
        with suppress(Exception):
            self._clear(batch)

    def _clear(self, batch: str) -> None:
        for match in filter(None, map(_OWN.fullmatch, self._aside.names())):
            if match[1] == batch:
                self._aside.delete(match[0])


def _fits(dtype: Any, known: Any) -> bool:
    """Whether values of a dtype may become those of another, unless they are too large for it."""
    wider = (pl.Float32, pl.Float64)
    integers = dtype.is_integer() and (known.is_integer() or known == pl.Decimal)
    return bool(dtype == known or integers or (dtype, known) == wider)


def _number(batch: str) -> int:
    """Give a batch's number, which no other has: Delta's are of 64 bits, with a sign."""
    return int.from_bytes(sha256(batch.encode()).digest()[:8]) >> 1


def _part(batch: str, number: int) -> str:
    return f"{batch}.{number}.part"
