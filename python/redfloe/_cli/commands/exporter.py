"""``redfloe exporter``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from redfloe._cli.options import Url, connect
from redfloe._cli.output import say


def exporter(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            help="Only streams whose key matches one of these.", show_default="*", metavar="PATTERN"
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The port to listen on; 0 takes a free one.")
    ] = 9123,
    consumers: Annotated[
        bool,
        typer.Option("--consumers", help="Series for each consumer too, which may become many."),
    ] = False,
    processors: Annotated[
        bool, typer.Option("--processors", help="Series for processors too.")
    ] = False,
    url: Url = None,
) -> None:
    """Serve metrics of streams and groups to Prometheus, until Ctrl-C.

    The server is asked whenever Prometheus asks. Names are those of redis_exporter where it has
    them, and redis_stream_group_lag_seconds beside.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server

        from redfloe.metrics import StreamCollector
    except ModuleNotFoundError as error:
        msg = "the exporter needs prometheus_client: pip install 'redfloe[metrics]'"
        raise ModuleNotFoundError(msg) from error

    registry = CollectorRegistry()
    collector = StreamCollector(
        connect(url), patterns or ["*"], consumers=consumers, processors=processors
    )
    registry.register(collector)
    server, thread = start_http_server(port, addr=host, registry=registry)
    say(f"redfloe exporter: http://{host}:{server.server_port}/metrics")
    try:
        # Not an Event: Polars' handler of Ctrl-C has the system go on waiting for one.
        while True:
            time.sleep(3600)
    finally:
        server.shutdown()
        thread.join()
