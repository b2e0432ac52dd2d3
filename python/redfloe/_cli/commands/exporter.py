"""``redfloe exporter``."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from redfloe._cli.options import Url, connect
from redfloe._cli.output import say


def exporter(
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", help="Streams whose key matches; may be given again. [default: *]"),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on.")] = 9123,
    consumers: Annotated[
        bool, typer.Option("--consumers", help="Series for each consumer: there may be many.")
    ] = False,
    url: Url = None,
) -> None:
    """Serve metrics of streams and groups to Prometheus, until Ctrl-C.

    The server is asked when Prometheus asks.
    """
    from redfloe._cli.metrics import serve

    listening = serve(connect(url), pattern or ["*"], host, port, consumers=consumers)
    say(f"redfloe exporter: http://{host}:{listening}/metrics")
    threading.Event().wait()
