"""The Rust core. All but `RedisConnection` and `StreamReader` serve the package, not its users."""

from collections.abc import Callable, Mapping
from os import PathLike
from types import GenericAlias
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar, final

from redfloe._arguments import Request
from redfloe._credentials import CredentialProvider
from redfloe._frame import ArrowStream
from redfloe._hashes import HashRequest
from redfloe._processing.arguments import ProcessorArguments
from redfloe._processing.table import TableRequest
from redfloe._write_arguments import WriteRequest

__all__ = [
    "AsyncBatchReader",
    "BatchReader",
    "Checkpoints",
    "Completions",
    "CredentialsDesk",
    "KnownStreams",
    "LaneMember",
    "Member",
    "Offer",
    "Operation",
    "Outcome",
    "PayloadSchema",
    "PreparedRead",
    "Processor",
    "ProcessorStats",
    "Producer",
    "Progress",
    "RecordBatch",
    "RedisConnection",
    "Runtime",
    "Selection",
    "Sent",
    "Shards",
    "Stats",
    "StreamReader",
    "Table",
    "Task",
    "Transaction",
    "__version__",
    "ack_entries",
    "advance_offsets",
    "check_arrow_stream",
    "check_connection",
    "check_dead_letter",
    "check_offsets",
    "check_processor",
    "check_streams",
    "check_table",
    "checked_arrow_stream",
    "claim_entries",
    "claim_shards",
    "commit_staged",
    "compress",
    "connect",
    "consumer_info",
    "create_group",
    "create_sharded_stream",
    "create_stream",
    "delete_consumer",
    "delete_entries",
    "delete_group",
    "delete_processor",
    "delete_stream",
    "empty_batch",
    "find_shards",
    "find_streams",
    "get_values",
    "group_info",
    "infer_schema",
    "key_slot",
    "list_groups",
    "list_streams",
    "load_state_for_test",
    "load_table_for_test",
    "lookup_table",
    "pending_entries",
    "pin",
    "pin_streams",
    "prepare_staging",
    "processor_info",
    "raise_kind",
    "read_fields",
    "read_stream",
    "read_table",
    "replay_dead_letters",
    "reset_processor",
    "server_address",
    "set_values",
    "split_stream",
    "staged_key",
    "start_pin",
    "start_read_stream",
    "start_write_hashes",
    "start_write_stream",
    "stream_info",
    "stream_offsets",
    "table_key",
    "take_events",
    "trim_stream",
    "write_hashes",
    "write_stream",
]

__version__: str

_T = TypeVar("_T")

@final
class RedisConnection:
    """How to reach a Redis or Valkey server.

    Connections are opened when they are needed and pooled per process; equal `RedisConnection`
    objects, and URLs, share a pool. A forked child makes its own.

    Parameters
    ----------
    url : str
        ``redis://[user[:password]@]host[:port][/database][?protocol=resp3]``, the same with
        ``rediss://`` for TLS, or ``unix:///path[?db=..&user=..&pass=..]``. Where sentinels know
        the master: ``redis+sentinel://[user[:password]@]host[:port][,...]/master[/database]``, or
        the same with ``rediss+sentinel://``. Nodes of a Redis Cluster are
        ``redis+cluster://[user[:password]@]host[:port][,...]``, or ``rediss+cluster://``; the plain
        URL of any one of them serves as well. Characters such as ``@`` in a password are
        percent-encoded.
    max_retries : int, optional
        How often a transient failure is retried: a lost connection, and errors of the server
        such as LOADING, READONLY, BUSY, OOM or NOREPLICAS. Other errors fail at once. By default 5
        times; but readers that never end, and `StreamProducer`, keep trying once they have had a
        connection, also after a timeout. A number bounds these as well.
    retry_base_delay, retry_max_delay : float, default 0.1 and 30.0
        Seconds of the first pause before a retry, and of the longest; each is twice the one
        before, and a random part of up to as much again comes on top.
    connect_timeout : float, default 5.0
        Seconds that a connection may take, from the name's look-up to the login. Until a call's
        first connection is established, its retries count too.
    response_timeout : float, default 30.0
        Seconds that the server may be silent while it owes an answer, beyond a `block_ms`.
    tls_ca : path, optional
        PEM file with the certificates of the authorities to trust; by default the system's. A
        server's self-signed certificate may be its own. This and the next two are read again when
        they have changed.
    tls_cert, tls_key : path, optional
        PEM files with the client's certificate chain and private key.
    client_name : str, optional
        The name that CLIENT LIST shows; left out where the server refuses CLIENT SETNAME (Redis
        2.6.9).
    username, password : str, optional
        The login, where the URL has none. Nothing in them is percent-encoded.
    credentials : function, optional
        Called without arguments whenever a connection is opened, in a thread of its own, for a
        password or ``(username, password)``: tokens of managed services expire. One call of it
        runs at a time; connections that are opened meanwhile share the answer of the next. An
        object with a method ``get_credentials``, as redis-py's credential providers are, serves
        as well. The function has `connect_timeout` to return. If it raises, the connection is
        retried like one that was refused, and the exception is the cause of the
        `AuthenticationError` at the end. There is then no other login.
    sentinel_username, sentinel_password : str, optional
        The login to the sentinels, which is apart from the master's, where the URL has none.
        Nothing in them is percent-encoded.
    read_from : {"master", "replica"}, default "master"
        Which nodes of a cluster serve reads without a group that come to an end: `read_stream`,
        `scan_stream`, `stream_reader`, `infer_schema`. A replica relieves its master, and may lack
        the newest entries. Everything else goes to masters.
    address_map : mapping of str to str, or function, optional
        Other addresses of a cluster's nodes than those that they announce, or of the servers that
        sentinels name, where these lead nowhere: behind NAT, or outside of the servers'
        containers. A mapping has each as ``host:port``. A function is called with the host and
        the port that are announced whenever a connection is opened, in a thread of its own, and
        returns ``(host, port)`` within `connect_timeout`. If it raises, the connection is retried
        like one that was refused, and the exception is the cause of the `RedisConnectionError` at
        the end. The addresses of the URL stay as they are.

    Raises
    ------
    ValueError
        The URL is malformed or its scheme unknown, a number is out of range, TLS files are given
        without ``rediss://`` or ``rediss+sentinel://``, a login to sentinels without a URL of
        sentinels, or more than one login is. The message never quotes the URL.
    TypeError
        `credentials` cannot be called, or `address_map` is neither a mapping nor can be called, or
        one of them is a coroutine function.

    Notes
    -----
    It can be pickled, so that another process connects in the same way. The pickle holds the
    password, and `credentials` and `address_map` if these can be pickled themselves: functions of a
    module, say.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.RedisConnection("redis://app:secret@localhost/2", max_retries=10)
    RedisConnection("redis://app:***@localhost:6379/2")
    >>> redfloe.RedisConnection(
    ...     "redis+sentinel://app:secret@s1,s2/mymaster", sentinel_password="secret too"
    ... )
    RedisConnection("redis+sentinel://app:***@s1:26379,s2:26379/mymaster?sentinel_password=***")
    """

    def __new__(
        cls,
        url: str,
        *,
        max_retries: int | None = None,
        retry_base_delay: float = 0.1,
        retry_max_delay: float = 30.0,
        connect_timeout: float = 5.0,
        response_timeout: float = 30.0,
        tls_ca: str | PathLike[str] | None = None,
        tls_cert: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
        client_name: str | None = None,
        username: str | None = None,
        password: str | None = None,
        credentials: Callable[[], str | tuple[str | None, str]] | CredentialProvider | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        read_from: Literal["master", "replica"] = "master",
        address_map: Mapping[str, str] | Callable[[str, int], tuple[str, int]] | None = None,
    ) -> RedisConnection: ...
    @classmethod
    def from_env(cls, prefix: str = "REDIS_") -> RedisConnection:
        """Read how to reach the server from environment variables.

        Parameters
        ----------
        prefix : str, default "REDIS_"
            How the variables begin. ``REDIS_URL`` is required; ``REDIS_USERNAME`` and
            ``REDIS_PASSWORD`` are the login where the URL has none, and
            ``REDIS_SENTINEL_USERNAME`` and ``REDIS_SENTINEL_PASSWORD`` that to the sentinels.
            ``REDIS_MAX_RETRIES``, ``REDIS_CONNECT_TIMEOUT`` and so on are the parameters of
            `RedisConnection`. Empty variables count as absent, others are ignored.

        Raises
        ------
        ValueError
            There is no such URL, or a variable has no valid value. The message quotes no value.

        Examples
        --------
        >>> import os
        >>> import redfloe
        >>> os.environ["SHOP_REDIS_URL"] = "redis://localhost/2"
        >>> os.environ["SHOP_REDIS_PASSWORD"] = "p@ss"
        >>> redfloe.RedisConnection.from_env("SHOP_REDIS_")
        RedisConnection("redis://:***@localhost:6379/2")
        """

    @classmethod
    def from_file(
        cls,
        path: str | PathLike[str],
        *,
        section: str | None = "redis",
        env_prefix: str | None = "REDIS_",
    ) -> RedisConnection:
        """Read how to reach the server from a TOML or YAML file.

        Needs the extra ``settings`` (pydantic-settings). `redfloe.settings.RedisSettings` is the
        same as a model, for the settings of your own application.

        Parameters
        ----------
        path : path
            A file that ends in ``.toml``, ``.yaml`` or ``.yml``. It names the parameters of
            `RedisConnection`.
        section : str or None, default "redis"
            The table of the file that holds them; None for its top level.
        env_prefix : str or None, default "REDIS_"
            Environment variables that begin so, such as ``REDIS_PASSWORD``, take precedence. None
            to read none.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ImportError
            pydantic-settings is not installed: ``pip install 'redfloe[settings]'``.
        ValueError
            The file is of another format, has no such section, or a value is refused.
        """

    def __getnewargs_ex__(self, /) -> tuple[tuple[str], dict[str, Any]]: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...

@final
class PayloadSchema:
    """What payloads are by, made ready to read and to write them."""

    @staticmethod
    def protobuf(descriptor_set: bytes, message: str) -> PayloadSchema: ...
    @staticmethod
    def avro(
        schema: str | None,
        schemas: Mapping[int, str],
        lookup: Callable[[int], str | None] | None,
        reader_schema: str | None,
        framing: str,
        schema_id: int | None,
    ) -> PayloadSchema: ...
    def columns(self) -> RecordBatch:
        """Give no rows, with a column for each field."""

    def pack(self, document: bytes) -> bytes:
        """Give the payload that a MessagePack map is."""

@final
class RecordBatch:
    """Rows of a read, for any library that speaks Arrow's PyCapsule interface."""

    def __len__(self, /) -> int: ...
    def is_same(self, other: RecordBatch) -> bool:
        """Say whether it is the other one, which may be another object."""

    def ids(self) -> list[str]: ...
    def streams(self) -> list[int]: ...
    def delivery_counts(self) -> list[int]: ...
    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]: ...

@final
class StreamReader:
    """Entries of a stream as an Arrow stream, as often as it is asked for; made by `stream_reader`.

    Each ``__arrow_c_stream__`` is a read of its own, up to the entry that is the newest when its
    first batch is asked for. ``__arrow_c_schema__`` may be asked for at any time; it sends nothing.
    """

    def __new__(cls, server: str | RedisConnection, request: Request) -> StreamReader: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...

@final
class BatchReader:
    """Batches of a stream's entries, for a thread that waits for them."""

    def __new__(
        cls, server: str | RedisConnection, request: Request, follow: bool
    ) -> BatchReader: ...
    def start(self) -> None: ...
    def close(self) -> None: ...
    def stop(self) -> None: ...
    def finish(self, success: bool) -> None: ...
    @property
    def stats(self) -> Stats: ...
    def stats_by_stream(self) -> list[tuple[str, Stats]]: ...
    @property
    def member(self) -> Member | None: ...
    def progress(self, automatic: bool) -> Progress: ...
    def next_batch(
        self, while_waiting: Callable[[], object] | None = None
    ) -> RecordBatch | None: ...
    def next_offer(self, make: Callable[[RecordBatch], _T]) -> Offer[_T] | None: ...

@final
class AsyncBatchReader:
    """Batches of a stream's entries, for an event loop."""

    def __new__(
        cls, server: str | RedisConnection, request: Request, follow: bool
    ) -> AsyncBatchReader: ...
    def request(self) -> Task[None]: ...
    def start(self) -> Task[None]: ...
    def close(self) -> None: ...
    def stop(self) -> None: ...
    def finish(self, success: bool) -> Task[None]: ...
    @property
    def stats(self) -> Stats: ...
    def stats_by_stream(self) -> list[tuple[str, Stats]]: ...
    @property
    def member(self) -> Member | None: ...
    def progress(self, automatic: bool) -> Progress: ...
    def offer(self, make: Callable[[RecordBatch], _T]) -> tuple[Offer[_T] | None] | None: ...

@final
class Offer(Generic[_T]):
    """A batch, as what was made of it, which is handed out once `accepted` is set.

    Until then it stays pending, and the next call of the same thread gives it again. Set `accepted`
    as the last thing before it is returned: Python handles signals after calls, and an assignment
    to an attribute is none.
    """

    @property
    def value(self) -> _T: ...
    @property
    def accepted(self) -> bool: ...
    @accepted.setter
    def accepted(self, accepted: bool) -> None: ...
    @classmethod
    def __class_getitem__(cls, key: object) -> GenericAlias: ...

@final
class Task(Generic[_T]):
    """Something that the core does in the background, for a coroutine to wait for.

    `result` gives or raises, once, what it came to. `cancel` drops it where it is, unless it is one
    that goes on; `stop` asks a write for an early end, and `rows_written` are its rows that are in.
    """

    @property
    def rows_written(self) -> int: ...
    def cancel(self) -> None: ...
    def stop(self) -> None: ...
    def result(self) -> _T: ...
    @classmethod
    def __class_getitem__(cls, key: object) -> GenericAlias: ...

@final
class Completions:
    """Which tasks are done, for an event loop, which watches the socket `fileno`.

    The socket becomes readable too when there is an event to log. `watch` gives a number for a
    task, and `take` the numbers of those that are done.
    """

    def __new__(cls) -> Completions: ...
    def fileno(self) -> int: ...
    def watch(self, task: Task[Any]) -> int: ...
    def take(self) -> list[int]: ...

@final
class CredentialsDesk:
    """Where connections that are being opened ask for credentials and addresses, and get them.

    The socket becomes readable when `take` has something: questions, each the number of a function
    to call and the address to call it with (None: it is to give credentials), and the numbers of
    functions that were dropped. `give`, `give_address` and `refuse` say what a call came to; until
    then that question is not to be asked again.
    """

    def __new__(cls) -> CredentialsDesk: ...
    def fileno(self) -> int: ...
    def take(self) -> tuple[list[tuple[int, tuple[str, int] | None]], list[int]]: ...
    def give(
        self, question: tuple[int, tuple[str, int] | None], username: str | None, password: str
    ) -> None: ...
    def give_address(
        self, question: tuple[int, tuple[str, int] | None], host: str, port: int
    ) -> None: ...
    def refuse(
        self, question: tuple[int, tuple[str, int] | None], why: str, cause: BaseException | None
    ) -> None: ...

@final
class Member:
    """A member of a consumer group, for what it does to entries beside reading them.

    Where the reader has several streams, `streams` are the numbers of the entries' streams, as
    `RecordBatch.streams` gives them. `acknowledge_all` takes a whole batch of the reader.
    `nack` takes each entry with how often it has been delivered. `leave` sends nothing.
    `put_aside` is the loop's own `dead_letter`, as patient in an outage as its reader, and
    given up with its wait; it says whether it was done before the loop was ended. `patient`
    gives the same member, all of whose operations are as patient, and given up so.
    """

    def patient(self) -> Member: ...
    def acknowledge(self, ids: list[str], streams: list[int] = ...) -> Operation[int]: ...
    def acknowledge_all(self, rows: RecordBatch) -> Operation[int]: ...
    def nack(
        self, entries: list[tuple[str, int]], delay_ms: int | None, streams: list[int] = ...
    ) -> Operation[int]: ...
    def keep(self, ids: list[str], streams: list[int] = ...) -> Operation[int]: ...
    def leave(self, ids: list[str], streams: list[int] = ...) -> None: ...
    def dead_letter(
        self, ids: list[str], reason: str, streams: list[int] = ...
    ) -> Operation[int]: ...
    def put_aside(
        self, ids: list[str], reason: str, streams: list[int] = ...
    ) -> Operation[bool]: ...

@final
class Progress:
    """How far a reader's caller has come, by the core's ledger; made by `progress` of a reader.

    `done` says that the batch in hand is done with, where `progress` was told that this is
    `automatic`; `acknowledged` that without a group some rows of a batch are, for all of which the
    last ID of each stream may be given (a group's member tells of its own); `leave` that the batch
    in hand is not. `moved` gives the streams whose positions are not `saved`, by their numbers and
    keys: a position is the ID of the last entry that is done with as all is that was handed out
    before it, for a checkpoint.
    """

    def moved(self) -> list[tuple[int, bytes, str]]: ...
    def saved(self, positions: list[tuple[int, bytes, str]]) -> None: ...
    def done(self) -> None: ...
    def acknowledged(
        self, batch: tuple[list[str], list[int]], done: tuple[list[str], list[int]]
    ) -> None: ...
    def leave(self) -> None: ...

@final
class Operation(Generic[_T]):
    """Something that is to be done: either now, or in the background; once.

    An operation that was started goes on even if nobody waits for it, unless its maker says
    otherwise.
    """

    def wait(self) -> _T: ...
    def start(self) -> Task[_T]: ...
    @classmethod
    def __class_getitem__(cls, key: object) -> GenericAlias: ...

@final
class PreparedRead:
    """A request that was checked, for any number of reads of all its entries."""

    def __new__(cls, request: Request) -> PreparedRead: ...

@final
class Table:
    """A processor's table, and what has been changed of it since the last commit."""

    def __len__(self, /) -> int: ...
    def lookup(self, keys: ArrowStream) -> RecordBatch: ...
    def contains(self, keys: ArrowStream) -> RecordBatch: ...
    def frame(self) -> RecordBatch: ...
    def upsert(self, frame: ArrowStream) -> None: ...
    def delete(self, keys: ArrowStream) -> int: ...
    def clear(self) -> None: ...
    def expire(self, watermark_ms: int | None = None) -> int: ...
    def newest_ms(self) -> int | None: ...
    def changes(self) -> tuple[list[tuple[bytes, bytes]], list[bytes]]: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...

@final
class Processor:
    """A processor that was entered, until it is left.

    Its operations are waited for on one runtime, or started in the background; those of one
    processor are not to be mixed.
    """

    def __new__(
        cls,
        server: str | RedisConnection,
        request: Request,
        options: ProcessorArguments,
        runtime: Runtime | None = None,
    ) -> Processor: ...
    def next(
        self, epoch: int | None, alarms: tuple[list[tuple[int, int]], bool]
    ) -> Operation[tuple[tuple[int, list[tuple[bytes, bytes]]] | None, Transaction | None]]:
        """Wait for the lane, where it is not held, and for the next batch; None at the end.

        Where the lane's epoch is not the one given it is that and the fields of the state, before
        there is a batch. An alarm, of milliseconds without entries and a time of the server's
        clock, has a batch come without entries; so has the end of the loop, where that is asked.
        """

    def at_hand(self, epoch: int) -> Transaction | None:
        """Give the next batch, where it is there already and the lane is held in that epoch."""

    def try_hold(self) -> Operation[bool]:
        """Acquire the lane, if nobody else has it; say whether it is held."""

    def find_shards(self, dead_letter: bytes | None = None) -> Operation[Shards | None]:
        """Give what the stream is, if it is a sharded one; see the function of that name."""

    def release(self) -> Operation[None]:
        """Leave the lane to others, to be acquired again later."""

    def hold(self) -> Operation[bool]:
        """Wait for the lane, where it is not held; say whether it is, rather than stopped."""

    def commit(
        self,
        transaction: Transaction,
        tables: list[tuple[bytes, Table]],
        state: tuple[list[tuple[bytes, bytes]], list[bytes]],
        settles: bool,
    ) -> Operation[bool]:
        """Commit what a transaction is to write, and what has changed of tables and the state.

        Says whether it is in; where it `settles`, rather than to be found out by acquiring anew.
        """

    def leave(self, transaction: Transaction) -> None:
        """Leave its entries pending in their group, instead of a commit."""

    def plan(self, transaction: Transaction) -> Operation[None]:
        """Have its batch be the same if it comes again."""

    def load_table(
        self, name: bytes, columns: TableRequest, newest_ms: int | None
    ) -> Operation[Table]: ...
    def load_table_until_stopped(
        self, name: bytes, columns: TableRequest
    ) -> Operation[Table | None]:
        """Do so for what the loop needs before its next batch; None where it is stopped first."""

    def stop(self) -> None: ...
    def finish(self, patience_ms: int) -> Operation[None]:
        """Stop, and leave the lane."""

    @property
    def stats(self) -> ProcessorStats: ...

@final
class ProcessorStats:
    """What a processor has done since it was entered."""

    @property
    def commits(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def dead_lettered(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def epoch(self) -> int | None: ...
    @property
    def position(self) -> str | None: ...
    @property
    def commit_seconds(self) -> float: ...
    @property
    def last_commit_seconds(self) -> float | None: ...

@final
class Transaction:
    """A batch of a processor, and what its commit is to write."""

    def rows(self) -> RecordBatch: ...
    def page(self) -> tuple[RecordBatch, int] | None:
        """Give all rows that were read with these and others, and where these begin there."""

    @property
    def range(self) -> tuple[str, str]:
        """The position before it, and the one after it."""

    @property
    def epoch(self) -> int: ...
    @property
    def turn(self) -> tuple[int, int, bool] | None:
        """Of one without entries: the server's time, how long none has come, if it is last."""

    def publish(
        self, frame: ArrowStream, request: WriteRequest, trim: tuple[int, bool] | None
    ) -> None: ...
    def add(
        self,
        stream: bytes,
        entries: list[list[tuple[bytes, bytes]]],
        trim: tuple[int, bool] | None,
    ) -> None: ...
    def fail(self, ids: list[str], reason: str, deliveries: int) -> None: ...
    def part(self, start: int, end: int) -> Transaction: ...
    def forget(self) -> None: ...

@final
class Stats:
    """What a reader has done so far."""

    @property
    def batches(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def acknowledged(self) -> int: ...
    @property
    def reclaimed(self) -> int: ...
    @property
    def dead_lettered(self) -> int: ...
    @property
    def deleted(self) -> int: ...
    @property
    def last_id(self) -> str | None: ...
    @property
    def done_up_to(self) -> str | None: ...
    @property
    def lag(self) -> int | None: ...

def get_values(
    server: str | RedisConnection, keys: list[bytes]
) -> Operation[list[bytes | None]]: ...
def set_values(
    server: str | RedisConnection, pairs: list[tuple[bytes, bytes]]
) -> Operation[bool]: ...

@final
class Checkpoints:
    """The checkpoints of one loop, in keys of a server.

    It is as patient in an outage as the reader of that request. What it does is given up with its
    wait, and soon after `stop`: then `get` gives None and `set` False.
    """

    def __new__(
        cls, server: str | RedisConnection, reader: str | RedisConnection, request: Request
    ) -> Checkpoints: ...
    def get(self, keys: list[bytes]) -> Operation[list[bytes | None]]: ...
    def set(self, pairs: list[tuple[bytes, bytes]]) -> Operation[bool]: ...
    def stop(self) -> None: ...

@final
class Shards:
    """A stream over several keys, as the hash at its name says."""

    def __new__(cls, name: bytes, shards: int, by: str) -> Shards: ...
    def __eq__(self, other: object, /) -> bool: ...
    __hash__: ClassVar[None]  # type: ignore[assignment]  # as a class has that defines __eq__ alone
    @property
    def by(self) -> str: ...
    @property
    def keys(self) -> list[bytes]: ...
    def shard_of(self, text: bytes) -> int: ...

@final
class KnownStreams:
    """What several writes to the same streams know of them."""

    def __new__(cls) -> KnownStreams: ...

@final
class Outcome:
    """What became of the rows of a write; as an Arrow array, their IDs."""

    @property
    def rows_written(self) -> int: ...
    @property
    def row(self) -> int | None: ...
    @property
    def unknown(self) -> tuple[int, int]: ...
    @property
    def error(self) -> Exception | None: ...
    def reraise(self) -> None:
        """Raise what stopped the write from outside, such as Ctrl-C; once."""

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]: ...

@final
class Producer:
    """Takes entries and writes them in the background."""

    def __new__(
        cls,
        server: str | RedisConnection,
        request: WriteRequest,
        linger_ms: int,
        batch_size: int,
        buffer_bytes: int,
        max_age_ms: tuple[int, bool] | None,
    ) -> Producer: ...
    @property
    def rows_written(self) -> int: ...
    def send(self, stream: bytes | None, fields: list[tuple[bytes, bytes]]) -> Sent | None: ...
    def write(
        self, stream: bytes | None, fields: list[tuple[bytes, bytes]]
    ) -> tuple[str | None] | None: ...
    def send_frame(self, stream: bytes | None, frame: ArrowStream) -> bool: ...
    def failure(self) -> tuple[Outcome, int, int] | None: ...
    def wait(self, what: str) -> None: ...
    def start_wait(self, what: str) -> Task[None]: ...
    def end(self) -> None: ...
    def stop(self) -> None: ...
    def close(self, limit_ms: int | None) -> tuple[bool, BaseException | None]: ...
    def start_close(self, limit_ms: int | None) -> Task[bool]: ...

@final
class Sent:
    """An entry that a producer was given.

    `id` gives its ID in a tuple of one once it is in, and None where it is not known to be.
    """

    def is_settled(self) -> bool: ...
    def id(self) -> tuple[str | None] | None: ...
    def wait(self, limit_ms: int | None) -> bool: ...
    def start_wait(self) -> Task[None]: ...

def connect(url: object) -> RedisConnection:
    """Hold what a caller gave as `url` without showing the password in it. Refuses nothing.

    The first statement of each function that takes a `url` is ``url = connect(url)``: a traceback
    may show the local variables of the frames that it passes. What is no URL raises when it is
    used, or by `check_connection`.
    """

def check_connection(connection: RedisConnection) -> None:
    """Raise where `connect` was given what names no server."""

def server_address(connection: RedisConnection) -> tuple[str, int | None]:
    """Give the host and the port; with None the path of a Unix socket, or the sentinels."""

def check_dead_letter(server: str | RedisConnection, stream: bytes, dead_letter: bytes) -> None:
    """Raise where the server is known to be a cluster, and the two keys are of two slots."""

def key_slot(key: bytes) -> int:
    """Give the slot of a cluster that a key belongs to."""

def ack_entries(
    server: str | RedisConnection, stream: bytes, group: bytes, entry_ids: list[str]
) -> Operation[int]: ...
def replay_dead_letters(
    server: str | RedisConnection, dead_letter: bytes, ids: list[str]
) -> Operation[tuple[list[tuple[str, str | None]], Exception | None]]: ...
def stream_info(server: str | RedisConnection, stream: bytes) -> Operation[RecordBatch]: ...
def group_info(server: str | RedisConnection, stream: bytes) -> Operation[RecordBatch]: ...
def find_streams(
    server: str | RedisConnection, pattern: bytes, must_exist: bool
) -> Operation[list[bytes]]: ...

@final
class Runtime:
    """What the connections of several lanes belong to."""

    def __new__(cls) -> Runtime: ...

@final
class Selection:
    """Operations that are waited for together."""

    def __new__(cls, runtime: Runtime) -> Selection: ...
    def add(self, number: int, operation: Operation[Any]) -> None: ...
    def remove(self, number: int) -> None: ...
    def numbers(self) -> list[int]: ...
    def first(self, patience_ms: int) -> Operation[tuple[int, Any, BaseException | None] | None]:
        """Give the number of the first to end, what it gives and what it raises."""

@final
class LaneMember:
    """One of those who share the lanes of a processor."""

    def __new__(
        cls,
        server: str | RedisConnection,
        stream: bytes,
        name: bytes,
        own: bytes,
        counts: tuple[int, int],
        runtime: Runtime,
    ) -> LaneMember: ...
    def beat(self, held: int) -> Operation[int]:
        """Give how many lanes to acquire, or to leave to others where negative."""
    def stop(self) -> None:
        """Have nobody wait for a server that is silent any more."""
    def leave(self, patience_ms: int) -> Operation[None]: ...

def claim_shards(
    server: str | RedisConnection, name: bytes, shards: int, by: str
) -> Operation[None]: ...
def create_sharded_stream(
    server: str | RedisConnection, name: bytes, shards: int, by: str
) -> Operation[bool]: ...
def find_shards(
    server: str | RedisConnection, name: bytes, dead_letter: bytes | None = None
) -> Operation[Shards | None]: ...
def list_streams(server: str | RedisConnection, pattern: bytes) -> Operation[RecordBatch]: ...
def list_groups(server: str | RedisConnection, pattern: bytes) -> Operation[RecordBatch]: ...
def consumer_info(
    server: str | RedisConnection, stream: bytes, group: bytes
) -> Operation[RecordBatch]: ...
def pending_entries(
    server: str | RedisConnection,
    stream: bytes,
    group: bytes,
    consumer: bytes | None,
    min_idle_ms: int,
    start_id: str,
    end_id: str,
    count: int | None,
) -> Operation[RecordBatch]: ...
def create_group(
    server: str | RedisConnection, stream: bytes, group: bytes, start_id: str, make_stream: bool
) -> Operation[bool]: ...
def delete_group(server: str | RedisConnection, stream: bytes, group: bytes) -> Operation[bool]: ...
def delete_consumer(
    server: str | RedisConnection, stream: bytes, group: bytes, consumer: bytes, discard: bool
) -> Operation[int]: ...
def trim_stream(
    server: str | RedisConnection,
    stream: bytes,
    maxlen: int | None,
    minid: str | None,
    approximate: bool,
    limit: int | None,
) -> Operation[int]: ...
def create_stream(server: str | RedisConnection, stream: bytes) -> Operation[bool]: ...
def delete_stream(server: str | RedisConnection, stream: bytes) -> Operation[bool]: ...
def delete_entries(
    server: str | RedisConnection, stream: bytes, entry_ids: list[str]
) -> Operation[int]: ...
def claim_entries(
    server: str | RedisConnection,
    stream: bytes,
    group: bytes,
    consumer: bytes,
    entry_ids: list[str],
    min_idle_ms: int,
) -> Operation[list[str]]: ...
def check_streams(server: str | RedisConnection, streams: list[bytes]) -> None: ...
def processor_info(
    server: str | RedisConnection, stream: bytes | None, pattern: bytes | None, name: bytes | None
) -> Operation[RecordBatch]: ...
def reset_processor(
    server: str | RedisConnection,
    stream: bytes,
    name: bytes,
    to: str,
    drop_state: bool,
    takeover: bool,
) -> Operation[tuple[str, str, int, int, list[tuple[str, int]]]]:
    """Give where it was and is, the epoch, how many names of the state and which tables are gone.

    Of each table its name, and how many rows it had.
    """

def delete_processor(
    server: str | RedisConnection,
    stream: bytes,
    name: bytes,
    group: bytes | None,
    consumer: bytes | None,
    takeover: bool,
) -> Operation[bool]: ...
def read_fields(server: str | RedisConnection, key: bytes) -> Operation[list[tuple[bytes, bytes]]]:
    """Read a table's fields with the JSON of their rows, as they are."""

def table_key(stream: bytes, name: bytes, table: bytes) -> bytes: ...
def check_processor(
    server: str | RedisConnection, request: Request, options: ProcessorArguments
) -> None: ...
def check_table(columns: TableRequest) -> None: ...
def read_table(
    server: str | RedisConnection, key: bytes, columns: TableRequest
) -> Operation[Table]:
    """Read a table as anybody may; it may come from a replica."""

def lookup_table(
    server: str | RedisConnection,
    stream: bytes,
    key: bytes,
    columns: TableRequest,
    keys: ArrowStream,
) -> Operation[Table]:
    """Read the rows of some keys of a table in a stream's slot, as anybody may."""

def load_table_for_test(
    server: str | RedisConnection,
    lane: tuple[bytes, bytes],
    key: bytes,
    columns: TableRequest,
    newest_ms: int | None,
) -> Operation[Table]:
    """Load a table through the lane of a stream and a name, which is taken over and left."""

def load_state_for_test(
    server: str | RedisConnection, lane: tuple[bytes, bytes], key: bytes
) -> Operation[list[tuple[bytes, bytes]]]:
    """Load all fields of a hash in the same way."""

def empty_batch(request: Request) -> RecordBatch: ...

#: The pieces of a partition, each with its stream's place and bounds, and how many entries it has.
_Split: TypeAlias = tuple[list[tuple[int, tuple[tuple[int, int], tuple[int, int]]]], int]

def split_stream(
    server: str | RedisConnection, request: Request, number: int
) -> Operation[list[_Split]]: ...
def stream_offsets(
    server: str | RedisConnection, streams: list[bytes], start_id: str
) -> Operation[list[str]]: ...
def advance_offsets(
    server: str | RedisConnection,
    streams: list[bytes],
    after: list[str],
    up_to: list[str],
    count: int,
) -> Operation[list[str]]: ...
def check_offsets(
    server: str | RedisConnection,
    streams: list[bytes],
    after: list[str],
    are_entries: bool,
) -> Operation[None]: ...
def compress(payload: bytes, compression: str) -> bytes: ...
def staged_key(stream: bytes, parts: list[bytes]) -> bytes: ...
def prepare_staging(
    server: str | RedisConnection, key: bytes, expiry_ms: int
) -> Operation[None]: ...
def commit_staged(
    server: str | RedisConnection,
    stream: bytes,
    marker: bytes,
    batch: int,
    keys: list[tuple[bytes, int]],
    *,
    is_last: bool = False,
    chunks: int | None = None,
) -> Operation[int]: ...
def pin(
    server: str | RedisConnection,
    request: Request,
    while_waiting: Callable[[], object] | None = None,
) -> tuple[tuple[int, int], tuple[int, int]] | None: ...
def pin_streams(
    server: str | RedisConnection,
    request: Request,
    while_waiting: Callable[[], object] | None = None,
) -> list[tuple[tuple[int, int], tuple[int, int]]]: ...
def start_pin(
    server: str | RedisConnection, request: Request
) -> Task[tuple[tuple[int, int], tuple[int, int]] | None]: ...
def read_stream(
    server: str | RedisConnection, prepared: PreparedRead, make: Callable[..., _T]
) -> _T: ...
def start_read_stream(
    server: str | RedisConnection, prepared: PreparedRead, make: Callable[..., _T]
) -> Task[tuple[_T, Operation[None] | None]]: ...
def infer_schema(server: str | RedisConnection, request: Request) -> Operation[RecordBatch]: ...
def raise_kind(index: int) -> int: ...
def take_events() -> list[tuple[str, dict[str, Any]]]: ...
def start_write_hashes(
    server: str | RedisConnection,
    frame: ArrowStream,
    request: HashRequest,
) -> Task[Outcome]: ...
def start_write_stream(
    server: str | RedisConnection,
    frame: ArrowStream,
    request: WriteRequest,
) -> Task[Outcome]: ...
def check_arrow_stream(
    stream: object, narrow_decimals: bool, lacking: list[str]
) -> tuple[list[tuple[str, str]], bool]:
    """Refuse columns of an ``arrow_array_stream`` capsule whose types Polars does not have.

    Gives the columns that have a time zone, each with its zone; and whether to look at the values
    by `checked_arrow_stream`. `narrow_decimals` lets decimals of 32 and 64 bits pass;
    `lacking` names newer dtypes, Float16 and Map, that this Polars does not have.
    """

def checked_arrow_stream(frame: ArrowStream) -> object:
    """Refuse values that Polars would change while it imports them.

    Those are seconds that overflow milliseconds, and times that are not within a day. Consumes the
    frame's stream, and gives another capsule with the same rows.
    """

def write_hashes(
    server: str | RedisConnection,
    frame: ArrowStream,
    request: HashRequest,
    outcomes: list[Outcome],
    progress: Callable[[int], object] | None = None,
) -> None: ...
def write_stream(
    server: str | RedisConnection,
    frame: ArrowStream,
    request: WriteRequest,
    outcomes: list[Outcome],
    progress: Callable[[int], object] | None = None,
) -> None: ...
