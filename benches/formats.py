"""The usual five fields as payloads of formats that have a schema."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from google.protobuf.message import Message
    from workloads import Workload


def event(number: int) -> dict[str, object]:
    """Give what the entry of that number has in every workload of events."""
    return {
        "user": f"user_{number * 7919 % 50000:06d}_name",
        "action": ("click", "view", "purchase")[number % 3],
        "amount": number * 31 % 100000,
        "score": number * 0.37,
        "valid": number % 2 == 1,
    }


def event_file() -> bytes:
    """Give the descriptor set of one message."""
    from google.protobuf import descriptor_pb2

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="b", syntax="proto3")
    message = file.message_type.add(name="Event")
    kinds = {
        "user": field.TYPE_STRING,
        "action": field.TYPE_STRING,
        "amount": field.TYPE_INT64,
        "score": field.TYPE_DOUBLE,
        "valid": field.TYPE_BOOL,
    }
    for number, (name, kind) in enumerate(kinds.items(), 1):
        message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    files: bytes = descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()
    return files


def event_class() -> type[Message]:
    """Give Google's class of that message."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(event_file()).file:
        pool.Add(file)
    described = pool.FindMessageTypeByName("b.Event")
    made: type[Message] = message_factory.GetMessageClass(described)
    return made


EVENT = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "user", "type": "string"},
        {"name": "action", "type": "string"},
        {"name": "amount", "type": "long"},
        {"name": "score", "type": "double"},
        {"name": "valid", "type": "boolean"},
    ],
}


def fill_with_messages(client: redis.Redis, workload: Workload) -> None:
    """Add the same events as Protobuf messages, which Google's library writes."""
    make = event_class()
    fill(client, workload, lambda number: make(**event(number)).SerializeToString())


def fill_with_records(client: redis.Redis, workload: Workload) -> None:
    """Add the same events as Avro records, which fastavro writes."""
    import fastavro

    schema = fastavro.parse_schema(EVENT)

    def payload(number: int) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, event(number))
        return out.getvalue()

    fill(client, workload, payload)


def fill(client: redis.Redis, workload: Workload, payload: Callable[[int], bytes]) -> None:
    """Add an entry with each payload."""
    for first in range(0, workload.entries, 10_000):
        pipeline = client.pipeline(transaction=False)
        for number in range(first, min(first + 10_000, workload.entries)):
            entry_id = f"{1704067200000 + number}-0"
            pipeline.xadd(workload.stream, {"data": payload(number)}, id=entry_id)
        pipeline.execute()


def read_messages(url: str, workload: Workload) -> pl.DataFrame:
    """Protobuf messages whose fields are columns."""
    import redfloe

    schema = redfloe.ProtobufSchema(event_file(), "b.Event")
    return redfloe.read_stream(
        url, workload.stream, schema=workload.schema, payload="data", payload_format=schema
    )


def read_and_parse(url: str, workload: Workload) -> pl.DataFrame:
    """The same by redis-py and protobuf, whose messages become a frame."""
    parse = event_class().FromString
    names = list(workload.schema)

    def row(payload: bytes) -> list[object]:
        message = parse(payload)
        return [getattr(message, name) for name in names]

    return paged(url, workload, row)


def read_records(url: str, workload: Workload) -> pl.DataFrame:
    """Avro records whose fields are columns."""
    import redfloe

    return redfloe.read_stream(
        url,
        workload.stream,
        schema=workload.schema,
        payload="data",
        payload_format=redfloe.AvroSchema(EVENT),
    )


def read_and_decode_records(url: str, workload: Workload) -> pl.DataFrame:
    """The same by redis-py and fastavro, whose dicts become a frame."""
    import fastavro

    schema = fastavro.parse_schema(EVENT)
    return paged(
        url, workload, lambda data: fastavro.schemaless_reader(io.BytesIO(data), schema, None)
    )


def paged(url: str, workload: Workload, row: Callable[[bytes], object]) -> pl.DataFrame:
    """Page a stream through redis-py; make a row of each payload, and a frame of them."""
    import redis

    ids: list[str] = []
    rows: list[object] = []
    start = "-"
    with redis.Redis.from_url(url) as client:
        while page := client.xrange(workload.stream, min=start, count=10_000):
            for entry_id, fields in page:
                ids.append(entry_id.decode())
                rows.append(row(fields[b"data"]))
            start = f"({ids[-1]}"
    columns = pl.DataFrame(rows, schema=workload.schema, orient="row")
    ids_and_times = pl.DataFrame({"_id": ids}, schema={"_id": pl.String}).with_columns(
        pl.col("_id").str.split("-").list.first().cast(pl.Int64).alias("_ts")
    )
    return pl.concat([ids_and_times, columns], how="horizontal")
