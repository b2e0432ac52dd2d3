"""Writes the inputs that the fuzz targets begin with: `python fuzz/make_seeds.py`."""

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack

SEEDS = Path(__file__).parent / "seeds"

# The low bit of the first byte: the reply of XREAD. The next two: the dtypes' schema, `_seq`.
# Above them the policy: raise, null, rescue, reject. Above it the payload `data`, and a path in it;
# the path alone stands for MessagePack, with the last bit in arrays as well.
ENTRIES, STREAMS = 0, 1
TYPED, SEQUENCE, NULL, RESCUE, REJECT = 2, 4, 8, 16, 24
PAYLOAD, PATH = 32, 64
PACKED, POSITIONS = 64, 192


def bulk(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return b"$%d\r\n%s\r\n" % (len(raw), raw)


def entry(entry_id: str, fields: dict[str, str | bytes], header: str = "*") -> bytes:
    count = len(fields) * (2 if header == "*" else 1)
    pairs = b"".join(bulk(name) + bulk(value) for name, value in fields.items())
    return b"*2\r\n" + bulk(entry_id) + f"{header}{count}\r\n".encode() + pairs


def array(items: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)


EVENTS = [
    entry("1704067200000-0", {"sensor": "roof", "value": "21.5", "unit": "C"}),
    entry("1704067200000-1", {"sensor": "cellar", "value": "9", "open": "true"}),
    entry("1704067201234-0", {}),
]
TYPES = {
    "text": "größer",
    "raw": b"\x00\xff",
    "kind": "view",
    "mood": "happy",
    "i": "-42",
    "u": "255",
    "wide": str(2**100),
    "f": "1.5e-3",
    "dec": "-12.50",
    "flag": "yes",
    "day": "2024-02-29",
    "time": "12:30:15.25",
    "at": "2024-07-01T12:00:00+02:00",
    "span": "PT1.5S",
    "list": '[["a", "\\u00e9"], null, []]',
    "pair": "[1, null]",
    "point": '{"x": 1.5, "y": "2024-01-31"}',
}
MISFITS = dict.fromkeys(TYPES, "?") | {"unknown": "kept"}
TYPED_EVENTS = [entry("1-1", TYPES), entry("2-1", {"i": ""}), entry("3-1", TYPES)]

#: Names that no column can have, that are taken, and that come again.
ODD_EVENTS = [
    EVENTS[0],
    entry("1704067209000-0", {"a\0b": "1", "sensor": "roof"}),
    entry("1704067209001-0", {b"\xff\xfe": "1", "a\\b": "2"}),
    entry("1704067209002-0", {"_id": "1", "_rescued": "2"}),
    b"*2\r\n$3\r\n9-0\r\n*6\r\n" + 2 * (bulk("sensor") + bulk("x")) + bulk("unit") + bulk(b"\xff"),
    EVENTS[1],
]
#: A document of each dtype, and what is none.
DOCUMENT = (
    '{"text":"gr\\u00f6\\u00dfer \\ud83e\\udd80","raw":"/w==","kind":"view","mood":"happy",'
    '"i":-4.20e1,"u":255.0,"wide":12345678901234567890123,"f":NaN,"dec":"-12.50","flag":true,'
    '"day":"2024-02-29","time":"12:30","at":1719828000000,"span":1500,"list":[["a",null],[]],"pair":[1,null],'
    '"point":{"y":"2024-01-31","x":1.5,"z":[{}]},"other":{"deep":[[{"a":"\\"]}"}]]},"i":null}'
)
DOCUMENTS = [
    entry("1-1", {"data": DOCUMENT, "sensor": "roof"}),
    entry("2-1", {"data": ' { "i" : 1 , "\\u0069" : 2 } ', "i": "3"}),
    entry("3-1", {"data": DOCUMENT[:100]}),
    entry("4-1", {"data": '["i"]'}),
    entry("5-1", {"data": "null", "_id": "x"}),
    entry("6-1", {"data": '{"after":{"i":6,"_id":"\\ud800"},"before":null}'}),
    b"*2\r\n$3\r\n7-1\r\n*4\r\n" + 2 * (bulk("data") + bulk('{"i":"x","new":1}')),
]
#: The same as MessagePack, with what only that has.
VALUES: dict[str, Any] = {
    **TYPES,
    "i": -42,
    "u": 255,
    "wide": 2**63,
    "f": float("inf"),
    "dec": 12.5,
    "flag": True,
    "at": datetime(2024, 7, 1, 12, 0, 0, 1, UTC),
    "span": 1500,
    "list": [["a", None], []],
    "pair": [1, -32],
    "point": {"x": 1.5, "y": "2024-01-31", "z": [{}]},
}
PACKED_DOCUMENTS = [
    entry(f"{n}-1", {"data": document})
    for n, document in enumerate(
        [
            msgpack.packb({**VALUES, "other": {"deep": [[{b"\xff": {}}]]}, 7: 8}, datetime=True),
            msgpack.packb([*VALUES.values(), "beyond"], datetime=True),
            msgpack.packb(VALUES, datetime=True)[:80],
            msgpack.packb({name: [value] for name, value in VALUES.items()}, datetime=True),
            b"\x82\xa1i\x01\xa1i\xc0",
            b"\xc0",
            b"\x81\xa4list\xdd\xff\xff\xff\xff",
            b"\x81\xa4list" + b"\x91" * 130 + b"\xc0",
        ],
        1,
    )
]
#: More names than the schema takes.
MANY_EVENTS = [entry(f"{n}-1", {f"name {n}": str(n)}) for n in range(1, 25)]

SEEDS_BY_NAME = {
    "xrange": (ENTRIES, array(EVENTS)),
    "xrange_resp3_fields": (ENTRIES, array([entry("1-1", {"a": "1", "b": ""}, "%")])),
    "xrange_empty": (ENTRIES, b"*0\r\n"),
    "xrange_types": (TYPED | SEQUENCE, array(TYPED_EVENTS)),
    "xrange_misfits_null": (TYPED | NULL, array([entry("1-1", MISFITS)])),
    "xrange_misfits_rescued": (TYPED | RESCUE, array([entry("1-1", MISFITS)])),
    "xrange_largest_id": (RESCUE | SEQUENCE, array([entry(f"{2**64 - 1}-{2**64 - 1}", {})])),
    **{
        f"xrange_odd_{policy}": (bits, array(ODD_EVENTS))
        for policy, bits in {"raise": 0, "null": NULL, "rescue": RESCUE, "reject": REJECT}.items()
    },
    "xrange_many_names": (ENTRIES, array(MANY_EVENTS)),
    "xrange_many_names_rescued": (RESCUE, array(MANY_EVENTS)),
    **{
        f"xrange_payload_{policy}_{name}": (bits | dtypes | PAYLOAD, array(DOCUMENTS))
        for policy, bits in {"raise": 0, "null": NULL, "rescue": RESCUE, "reject": REJECT}.items()
        for name, dtypes in {"typed": TYPED, "text": 0}.items()
    },
    **{
        f"xrange_packed_{name}": (bits | RESCUE, array(PACKED_DOCUMENTS))
        for name, bits in {
            "typed": TYPED | PACKED,
            "text": PACKED,
            "typed_positions": TYPED | POSITIONS,
            "text_positions": POSITIONS,
        }.items()
    },
    "xrange_packed_raise": (TYPED | PACKED, array(PACKED_DOCUMENTS[:1])),
    "xrange_payload_path": (RESCUE | PAYLOAD | PATH, array(DOCUMENTS[5:])),
    "xread": (STREAMS, array([array([bulk("a"), array(EVENTS)]), array([bulk("b"), b"*0\r\n"])])),
    "xread_resp3": (STREAMS, b"%2\r\n" + bulk("a") + array(EVENTS) + bulk("b") + b"*0\r\n"),
    "xread_timeout": (STREAMS, b"*-1\r\n_\r\n$-1\r\n"),
    "xreadgroup_deleted": (
        STREAMS,
        array([array([bulk("s"), array([array([bulk("5-0"), b"*-1\r\n"]), b"_\r\n", EVENTS[0]])])]),
    ),
    "reply_then_entry": (ENTRIES, array(EVENTS) + EVENTS[0]),
    "error_then_reply": (ENTRIES, b"-LOADING Redis is loading\r\n" + array(EVENTS[:1])),
    "push_then_reply": (
        ENTRIES,
        b">2\r\n+invalidate\r\n*1\r\n+k\r\n|1\r\n+ttl\r\n:3600\r\n" + array(EVENTS[:1]),
    ),
}

#: The low bit of the first byte: the schema of every type. Above it the framing, and one column.
NODE, EVERY = 0, 1
SINGLE_OBJECT, CONFLUENT, CONTAINER, ONE_COLUMN = 2, 4, 6, 8
#: As fastavro writes them.
NODE_DATUM = bytes.fromhex("02020400000400")
EVERY_DATUM = bytes.fromhex(
    "0102140000c03f000000000000f83f0400ff027802020261020000026162636404cfc78cb50288e3"
    "c3de1b0280a0c9a2be63"
)
CONTAINER_FILE = bytes.fromhex(
    "4f626a0104146176726f2e636f6465630e6465666c617465166176726f2e736368656d61a0017b22"
    "74797065223a20227265636f7264222c20226e616d65223a20224e6f6465222c20226669656c6473"
    "223a205b7b226e616d65223a202276616c7565222c202274797065223a2022696e74227d5d7d0000"
    "000000000000000000000000000000020c63020000030000000000000000000000000000000000"
)
AVRO_BY_NAME = {
    "node": bytes([NODE]) + NODE_DATUM,
    "node_confluent": bytes([NODE | CONFLUENT]) + bytes(5) + NODE_DATUM,
    "node_single_object": bytes([NODE | SINGLE_OBJECT]) + b"\xc3\x01" + bytes(8) + NODE_DATUM,
    "every": bytes([EVERY]) + EVERY_DATUM,
    "every_one_column": bytes([EVERY | ONE_COLUMN]) + EVERY_DATUM,
    "container": bytes([NODE | CONTAINER]) + CONTAINER_FILE,
}
#: As Google's library writes them, by orders.proto; `protoc --include_imports
#: --descriptor_set_out=orders.binpb orders.proto` wrote its descriptor.
ORDERS_BY_NAME = {
    "empty": bytes([0]),
    "order": bytes([0])
    + bytes.fromhex(
        "08051201781a030201042201012a050a01791002320a0a016b12050a017a10013a01634a02080152"
        "0208025a030a016162180a160a01611211320f0a0911000000000000f03f0a0208006a0220017202"
        "0804"
    ),
    "one_column": bytes([1]) + bytes.fromhex("0807"),
}
ZSTD, GZIP = 0, 1
COMPRESSED_BY_NAME = {
    "zstd": bytes([ZSTD]) + bytes.fromhex("28b52ffd2007390000") + b'{"a":1}',
    "gzip": bytes([GZIP]) + gzip.compress(b'{"a":1}', mtime=0),
}

targets = {
    # Three sizes of pieces, to be cycled through.
    "decode": {
        name: bytes([bits, 3, 7, 1, 40]) + reply for name, (bits, reply) in SEEDS_BY_NAME.items()
    },
    "avro": AVRO_BY_NAME,
    "protobuf": ORDERS_BY_NAME,
    "compression": COMPRESSED_BY_NAME,
}
for target, seeds in targets.items():
    (SEEDS / target).mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        (SEEDS / target / name).write_bytes(seed)
