"""The command line reads and writes payloads in each format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import AvroSchema, ProtobufSchema
from support.commands import rows, run
from support.groups import DRAIN
from support.protobuf import compiled
from support.server import Server

DESCRIPTOR, _ = compiled(
    """
syntax = "proto3";
package till;
enum State { OPEN = 0; PAID = 1; }
message Line { string sku = 1; int32 count = 2; }
message Order { int64 id = 1; State state = 2; Line first = 3; repeated string tags = 4; }
"""
)
AVRO = {
    "type": "record",
    "name": "shop.Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "PAID"]}},
        {
            "name": "first",
            "type": {
                "type": "record",
                "name": "Line",
                "fields": [{"name": "sku", "type": "string"}, {"name": "count", "type": "int"}],
            },
        },
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
STATE = pl.Enum(["OPEN", "PAID"])
ORDERS = pl.DataFrame(
    {
        "id": [1, 2, 3],
        "state": ["OPEN", "PAID", "PAID"],
        "first": [{"sku": "A", "count": 1}, {"sku": "Köln", "count": -2}, {"sku": "", "count": 3}],
        "tags": [["x", "y"], [], ["z"]],
    },
    schema={
        "id": pl.Int64,
        "state": STATE,
        "first": pl.Struct({"sku": pl.String, "count": pl.Int32}),
        "tags": pl.List(pl.String),
    },
)
FORMATS = [
    "json",
    "msgpack",
    "protobuf:{}/shop.binpb:till.Order",
    "avro:{}/order.avsc",
    "avro-single-object:{}/order.avsc",
    "avro-confluent:{}/order.avsc:7",
]


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    """Give a folder that has the descriptor set and the schema."""
    (tmp_path / "shop.binpb").write_bytes(DESCRIPTOR)
    (tmp_path / "order.avsc").write_text(json.dumps(AVRO))
    return tmp_path


def payloads(form: str, folder: Path, *more: str) -> list[str]:
    return ["--payload", "data", "--payload-format", form.format(folder), *more]


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_comes_in_and_is_shown_and_goes_out(
    any_server: Server, stream: str, schemas: Path, form: str
) -> None:
    options = payloads(form, schemas)
    ORDERS.write_parquet(schemas / "orders.parquet")
    run("import", str(schemas / "orders.parquet"), stream, *options, url=any_server.url)
    for name in ("head", "tail"):
        shown = rows(run(name, stream, *options, "--json", url=any_server.url))
        assert [{**row, "_id": 0, "_ts": 0} for row in shown] == [
            {"_id": 0, "_ts": 0, **row} for row in ORDERS.rows(named=True)
        ]
    run("export", stream, str(schemas / "out.parquet"), *options, url=any_server.url)
    # What brings no schema with it leaves dtypes to be inferred.
    dtypes: Any = {} if ":" in form else {"state": STATE, "first": ORDERS.schema["first"]}
    exported = pl.read_parquet(schemas / "out.parquet").select(ORDERS.columns).cast(dtypes)
    assert_frame_equal(exported, ORDERS)
    query = f"select first.sku, id from \"{stream}\" where state = 'PAID' order by id"
    found = rows(run("sql", query, *options, "--json", url=any_server.url))
    assert found == [{"sku": "Köln", "id": 2}, {"sku": "", "id": 3}]
    pasted: dict[str, Any] = {}
    exec(run("schema", stream, *options, url=any_server.url).stdout, pasted)
    assert pl.Schema(pasted["schema"])["tags"] == pl.List(pl.String)
    if ":" in form:
        assert pl.Schema(pasted["schema"]) == ORDERS.schema


@pytest.mark.parametrize("form", FORMATS[1:4])
def test_text_leaves_what_would_be_inferred(
    any_server: Server, stream: str, schemas: Path, form: str
) -> None:
    """What a schema tells is not inferred."""
    options = payloads(form, schemas, "--text")
    ORDERS.write_parquet(schemas / "orders.parquet")
    run("import", str(schemas / "orders.parquet"), stream, *options[:4], url=any_server.url)
    shown = rows(run("head", stream, *options, "--json", url=any_server.url))
    run("export", stream, str(schemas / "x.parquet"), *options, url=any_server.url)
    exported = pl.read_parquet(schemas / "x.parquet").select(ORDERS.columns)
    if ":" in form:
        assert [row["id"] for row in shown] == [1, 2, 3]
        assert_frame_equal(exported, ORDERS)
    else:
        assert [row["id"] for row in shown] == ["1", "2", "3"]
        assert json.loads(exported["first"][1]) == {"sku": "Köln", "count": -2}


def test_confluents_header(any_server: Server, stream: str, schemas: Path) -> None:
    """It is passed over, or checked; without an ID nothing can be written."""
    options = payloads("avro-confluent:{}/order.avsc", schemas)
    ORDERS.write_parquet(schemas / "orders.parquet")
    file = str(schemas / "orders.parquet")
    assert "schema_id" in run("import", file, stream, *options, url=any_server.url, code=1).stderr
    written = payloads("avro-confluent:{}/order.avsc:7", schemas)
    run("import", file, stream, *written, url=any_server.url)
    for form, ids in ((":7", [1, 2, 3]), ("", [1, 2, 3]), (":8", [None] * 3)):
        options = payloads(f"avro-confluent:{{}}/order.avsc{form}", schemas)
        shown = rows(run("head", stream, *options, "--json", url=any_server.url))
        assert [row["id"] for row in shown] == ids


def test_bytes_within_a_document_are_text_in_ndjson(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    """Polars has no JSON for them."""
    for document in ({"l": [b"a", b"\xff"], "s": {"b": b"\xfe", "n": 1.5}}, {"l": None, "s": None}):
        client.xadd(stream, {"data": msgpack.packb(document)})
    options = ["--payload", "data", "--payload-format", "msgpack"]
    for path in (tmp_path / "x.ndjson", tmp_path / "parts"):
        more = ["-f", "ndjson"] if path.name == "parts" else []
        run("export", stream, str(path), *options, *more, url=any_server.url)
        [file] = [path] if path.is_file() else path.glob("*.ndjson")
        first, second = map(json.loads, file.read_text().splitlines())
        assert first["l"] == ["a", "\\xff"]
        assert first["s"] == {"b": "\\xfe", "n": 1.5}
        assert (second["l"], second["s"]) == (None, None)


def test_csv_has_nested_values_as_json(any_server: Server, stream: str, tmp_path: Path) -> None:
    frame = ORDERS.with_columns(x=pl.Series([[float("nan"), 0.5], None, []]))
    redfloe.write_stream(any_server.url, frame, stream, payload="data", payload_format="msgpack")
    options = ["--payload", "data", "--payload-format", "msgpack"]
    run("export", stream, str(tmp_path / "x.csv"), *options, url=any_server.url)
    read = pl.read_csv(tmp_path / "x.csv")
    assert [json.loads(text) for text in read["first"]] == frame["first"].to_list()
    assert read["tags"].to_list() == ['["x", "y"]', "[]", '["z"]']
    assert read["x"].to_list() == ['["NaN", 0.5]', None, "[]"]


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_compressed_payloads(
    any_server: Server, stream: str, schemas: Path, compression: str
) -> None:
    options = payloads("msgpack", schemas, "--payload-compression", compression)
    ORDERS.write_parquet(schemas / "orders.parquet")
    run("import", str(schemas / "orders.parquet"), stream, *options, url=any_server.url)
    shown = rows(run("head", stream, *options, "--json", url=any_server.url))
    assert [row["id"] for row in shown] == [1, 2, 3]
    bare = run("head", stream, *options[:4], "--json", url=any_server.url)
    assert all("id" not in row for row in rows(bare))


def test_arrays_by_position(any_server: Server, client: redis.Redis, stream: str) -> None:
    client.xadd(stream, {"data": msgpack.packb([7, "x"])})
    options = ["--payload", "data", "--payload-format", "msgpack:id,name"]
    [shown] = rows(run("head", stream, *options, "--json", url=any_server.url))
    assert (shown["id"], shown["name"]) == (7, "x")


def test_a_container_brings_its_schema(any_server: Server, stream: str, schemas: Path) -> None:
    """It can be read, but not written."""
    fastavro = pytest.importorskip("fastavro")
    with (schemas / "x.avro").open("wb") as file:
        fastavro.writer(file, AVRO, ORDERS.rows(named=True)[:1])
    with any_server.client() as client:
        client.xadd(stream, {"data": (schemas / "x.avro").read_bytes()})
    for form in ("avro-container", "avro-container:{}/order.avsc"):
        options = payloads(form, schemas)
        [shown] = rows(run("head", stream, *options, "--json", url=any_server.url))
        assert shown["first"] == {"sku": "A", "count": 1}
    ORDERS.write_parquet(schemas / "orders.parquet")
    done = run(
        "import", str(schemas / "orders.parquet"), stream, *options, url=any_server.url, code=1
    )
    assert "container" in done.stderr


def test_dead_letters_in_a_format(any_server: Server, stream: str, schemas: Path) -> None:
    orders = ProtobufSchema(schemas / "shop.binpb", "till.Order")
    redfloe.write_stream(any_server.url, ORDERS, stream, payload="data", payload_format=orders)
    with redfloe.StreamConsumer(
        any_server.url,
        stream,
        "g",
        "c",
        payload="data",
        payload_format=orders,
        dead_letter=f"{stream}:dead",
        **DRAIN,
    ) as consumer:
        for batch in consumer:
            batch.fail(batch.frame["_id"], "no")
    options = payloads(FORMATS[2], schemas)
    listed = rows(run("dead", "list", f"{stream}:dead", *options, "--json", url=any_server.url))
    assert [row["first"]["count"] for row in listed] == [1, -2, 3]


def test_an_archive_of_a_format(any_server: Server, stream: str, schemas: Path) -> None:
    orders = AvroSchema(schemas / "order.avsc")
    redfloe.write_stream(any_server.url, ORDERS, stream, payload="data", payload_format=orders)
    to = schemas / "lake"
    options = payloads("avro:{}/order.avsc", schemas)
    run("archive", stream, str(to), *options, "--until", "now", url=any_server.url)
    archived = pl.read_parquet(to / "**/*.parquet").select(ORDERS.columns)
    assert_frame_equal(archived.cast({"state": STATE}), ORDERS)


def test_an_export_goes_on_in_its_format(
    any_server: Server, stream: str, schemas: Path, tmp_path: Path
) -> None:
    """The schema's file may move, and grow; another format, message or compression is refused."""
    orders = ProtobufSchema(schemas / "shop.binpb", "till.Order")
    to = str(tmp_path / "parts")

    def export(form: str, *more: str, code: int = 0) -> str:
        options = payloads(form, schemas, *more)
        return run("export", stream, to + "/", *options, url=any_server.url, code=code).stderr

    for _ in range(2):
        redfloe.write_stream(any_server.url, ORDERS, stream, payload="data", payload_format=orders)
        export("protobuf:{}/shop.binpb:till.Order")
        (schemas / "moved").mkdir(exist_ok=True)
        (schemas / "moved" / "shop.binpb").write_bytes(DESCRIPTOR)
    export("protobuf:{}/moved/shop.binpb:till.Order")
    parts = [pl.read_parquet(part) for part in sorted(Path(to).glob("*.parquet"))]
    assert_frame_equal(pl.concat(parts).select(ORDERS.columns), pl.concat([ORDERS, ORDERS]))
    assert "payload_format 'protobuf:till.Order', not 'json'" in export("json", code=1)
    assert "not 'protobuf:till.Line'" in export("protobuf:{}/shop.binpb:till.Line", code=1)
    compressed = export(FORMATS[2], "--payload-compression", "zstd", code=1)
    assert "payload_compression None, not 'zstd'" in compressed


def test_no_folder_is_named_after_a_struct(
    any_server: Server, stream: str, schemas: Path, tmp_path: Path
) -> None:
    """And the directory can be used for what is meant."""
    orders = ProtobufSchema(schemas / "shop.binpb", "till.Order")
    redfloe.write_stream(any_server.url, ORDERS, stream, payload="data", payload_format=orders)
    options = payloads("protobuf:{}/shop.binpb:till.Order", schemas)
    to = str(tmp_path / "parts")
    url = any_server.url
    done = run("export", stream, to, *options, "--partition-by", "first", url=url, code=1)
    assert "no folder can be named after the values of 'first'" in done.stderr
    run("export", stream, to, *options, "--partition-by", "state", url=url)
    assert (tmp_path / "parts" / "state=PAID").is_dir()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--payload-format", "msgpack"], "--payload-format"),
        (["--payload-compression", "zstd"], "--payload-compression"),
        (["--payload", "data", "--payload-format", "xml"], "'xml' is none of json, msgpack"),
        (["--payload", "data", "--payload-format", "json:x"], "'json:x' is none of"),
        (["--payload", "data", "--payload-format", "protobuf"], "protobuf:shop.binpb:shop.Order"),
        (["--payload", "data", "--payload-format", "protobuf:x"], "protobuf:shop.binpb:shop.Order"),
        (["--payload", "data", "--payload-format", "avro"], "avro:order.avsc"),
        (["--payload", "data", "--payload-format", "avro:no/such.avsc"], "no/such.avsc"),
        (["--payload", "data", "--payload-format", "protobuf:no/such:a.B"], "no/such"),
        (["--payload", "data", "--payload-format", "msgpack:"], "--payload-format"),
        (["--payload", "data", "--payload-compression", "lz4"], "lz4"),
    ],
)
def test_what_is_no_format_is_refused_before_anything_is_done(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    tmp_path: Path,
    typed: list[str],
    said: str,
) -> None:
    client.xadd(stream, {"data": "{}"})
    (tmp_path / "x.csv").write_text("a\n1\n")
    for command in (
        ["head", stream],
        ["tail", stream],
        ["schema", stream],
        ["export", stream, str(tmp_path / "out.csv")],
        ["import", str(tmp_path / "x.csv"), stream],
        ["archive", stream, str(tmp_path / "lake"), "--until", "now"],
        ["sql", f'select * from "{stream}"'],
    ):
        done = run(*command, *typed, url=any_server.url, code=2)
        text = " ".join(done.stderr.replace("│", " ").split())
        assert said in text, (command, text)
        assert "Traceback" not in text
    assert client.xlen(stream) == 1
    assert not (tmp_path / "out.csv").exists()
