"""Everything that is public; `redfloe` gives it when it is first asked for."""

from redfloe import _expressions  # noqa: F401 - gives Polars' expressions their namespace
from redfloe._administration.groups import (
    claim_entries,
    claim_entries_async,
    create_group,
    create_group_async,
    delete_consumer,
    delete_consumer_async,
    delete_group,
    delete_group_async,
)
from redfloe._administration.listing import (
    list_groups,
    list_groups_async,
    list_streams,
    list_streams_async,
)
from redfloe._administration.looking import (
    consumer_info,
    consumer_info_async,
    group_info,
    group_info_async,
    pending_entries,
    pending_entries_async,
    stream_info,
    stream_info_async,
)
from redfloe._administration.processors import (
    delete_processor,
    delete_processor_async,
    processor_info,
    processor_info_async,
    reset_processor,
    reset_processor_async,
)
from redfloe._administration.streams import (
    create_stream,
    create_stream_async,
    delete_entries,
    delete_entries_async,
    delete_stream,
    delete_stream_async,
    trim_stream,
    trim_stream_async,
)
from redfloe._batch import AsyncBatch, Batch
from redfloe._consuming.checkpoint import (
    CheckpointStore,
    FileCheckpointStore,
    MemoryCheckpointStore,
    RedisCheckpointStore,
)
from redfloe._consuming.consumer import StreamConsumer
from redfloe._consuming.dead_letters import (
    read_dead_letters,
    read_dead_letters_async,
    replay_dead_letters,
    replay_dead_letters_async,
)
from redfloe._consuming.stats import ConsumerStats
from redfloe._core import RedisConnection, StreamReader, __version__
from redfloe._errors import (
    AuthenticationError,
    CheckpointError,
    ClaimedError,
    DataLossError,
    DecodeError,
    FencedError,
    NoGroupError,
    NoProcessorError,
    NoStreamError,
    NotDurableError,
    OutcomeUnknownError,
    PendingEntriesError,
    ProcessorRunningError,
    RedfloeError,
    RedisConnectionError,
    RedisTimeoutError,
    ResponseError,
    SchemaError,
    WriteError,
    WrongTypeError,
)
from redfloe._hashes import write_hashes, write_hashes_async
from redfloe._lake.archive import archive, archive_async
from redfloe._lake.result import ArchiveResult
from redfloe._lake.scan import scan_archive_and_stream
from redfloe._local import LocalServer, local_server
from redfloe._options import ColumnOptions, DecodeOptions, ReadOptions
from redfloe._payload_schema import AvroSchema, ProtobufSchema
from redfloe._processing.delta_sink import DeltaSink
from redfloe._processing.models import State
from redfloe._processing.parquet_sink import ParquetSink
from redfloe._processing.processor import StreamProcessor
from redfloe._processing.reading import read_table, read_table_async, scan_table, table_key
from redfloe._processing.state import ProcessorState
from redfloe._processing.stats import ProcessorStats
from redfloe._processing.table import Table
from redfloe._processing.transaction import AsyncTransaction, Transaction
from redfloe._processing.windows.window import Window
from redfloe._reading.batches import AsyncBatchIterator, BatchIterator
from redfloe._reading.follow import iter_stream, stream_batches
from redfloe._reading.infer import infer_schema, infer_schema_async
from redfloe._reading.many import read_streams, read_streams_async, scan_streams
from redfloe._reading.offsets import (
    advance_offsets,
    advance_offsets_async,
    stream_offsets,
    stream_offsets_async,
)
from redfloe._reading.partitions import StreamPartition, split_stream, split_stream_async
from redfloe._reading.read import (
    ack_entries,
    ack_entries_async,
    read_stream,
    read_stream_async,
)
from redfloe._reading.scan import scan_stream, stream_reader
from redfloe._sink import sink_stream, sink_stream_async
from redfloe._write import write_stream, write_stream_async
from redfloe._writing.async_producer import AsyncStreamProducer
from redfloe._writing.producer import StreamProducer
from redfloe._writing.sent import SentEntry

__all__ = [
    "ArchiveResult",
    "AsyncBatch",
    "AsyncBatchIterator",
    "AsyncStreamProducer",
    "AsyncTransaction",
    "AuthenticationError",
    "AvroSchema",
    "Batch",
    "BatchIterator",
    "CheckpointError",
    "CheckpointStore",
    "ClaimedError",
    "ColumnOptions",
    "ConsumerStats",
    "DataLossError",
    "DecodeError",
    "DecodeOptions",
    "DeltaSink",
    "FencedError",
    "FileCheckpointStore",
    "LocalServer",
    "MemoryCheckpointStore",
    "NoGroupError",
    "NoProcessorError",
    "NoStreamError",
    "NotDurableError",
    "OutcomeUnknownError",
    "ParquetSink",
    "PendingEntriesError",
    "ProcessorRunningError",
    "ProcessorState",
    "ProcessorStats",
    "ProtobufSchema",
    "ReadOptions",
    "RedfloeError",
    "RedisCheckpointStore",
    "RedisConnection",
    "RedisConnectionError",
    "RedisTimeoutError",
    "ResponseError",
    "SchemaError",
    "SentEntry",
    "State",
    "StreamConsumer",
    "StreamPartition",
    "StreamProcessor",
    "StreamProducer",
    "StreamReader",
    "Table",
    "Transaction",
    "Window",
    "WriteError",
    "WrongTypeError",
    "__version__",
    "ack_entries",
    "ack_entries_async",
    "advance_offsets",
    "advance_offsets_async",
    "archive",
    "archive_async",
    "claim_entries",
    "claim_entries_async",
    "consumer_info",
    "consumer_info_async",
    "create_group",
    "create_group_async",
    "create_stream",
    "create_stream_async",
    "delete_consumer",
    "delete_consumer_async",
    "delete_entries",
    "delete_entries_async",
    "delete_group",
    "delete_group_async",
    "delete_processor",
    "delete_processor_async",
    "delete_stream",
    "delete_stream_async",
    "group_info",
    "group_info_async",
    "infer_schema",
    "infer_schema_async",
    "iter_stream",
    "list_groups",
    "list_groups_async",
    "list_streams",
    "list_streams_async",
    "local_server",
    "pending_entries",
    "pending_entries_async",
    "processor_info",
    "processor_info_async",
    "read_dead_letters",
    "read_dead_letters_async",
    "read_stream",
    "read_stream_async",
    "read_streams",
    "read_streams_async",
    "read_table",
    "read_table_async",
    "replay_dead_letters",
    "replay_dead_letters_async",
    "reset_processor",
    "reset_processor_async",
    "scan_archive_and_stream",
    "scan_stream",
    "scan_streams",
    "scan_table",
    "sink_stream",
    "sink_stream_async",
    "split_stream",
    "split_stream_async",
    "stream_batches",
    "stream_info",
    "stream_info_async",
    "stream_offsets",
    "stream_offsets_async",
    "stream_reader",
    "table_key",
    "trim_stream",
    "trim_stream_async",
    "write_hashes",
    "write_hashes_async",
    "write_stream",
    "write_stream_async",
]
