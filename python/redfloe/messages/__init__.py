"""Typed events and handlers on Redis streams: an event is a row.

Needs the extra ``messages``: ``pip install 'redfloe[messages]'``.
"""

from redfloe.messages._app import App
from redfloe.messages._bus import CommandBus, EventBus, Marshaler
from redfloe.messages._codecs import Codec, FastStreamCodec, JsonCodec, NatricineCodec, RowCodec
from redfloe.messages._errors import MisfitError, NotDoneError, UnknownTypeError
from redfloe.messages._health import Drained, Health
from redfloe.messages._message import Message
from redfloe.messages._processor import Processor
from redfloe.messages._producer import AsyncProducer, Producer
from redfloe.messages._retry import Retry
from redfloe.messages._router import Router
from redfloe.messages._schema_of import schema_of
from redfloe.messages._settings import Settings
from redfloe.messages._transaction import Transaction

__all__ = [
    "App",
    "AsyncProducer",
    "Codec",
    "CommandBus",
    "Drained",
    "EventBus",
    "FastStreamCodec",
    "Health",
    "JsonCodec",
    "Marshaler",
    "Message",
    "MisfitError",
    "NatricineCodec",
    "NotDoneError",
    "Processor",
    "Producer",
    "Retry",
    "Router",
    "RowCodec",
    "Settings",
    "Transaction",
    "UnknownTypeError",
    "schema_of",
]
