"""``redfloe demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from redfloe._cli.bare import check_url, run_demo


def demo(
    url: Annotated[
        str | None,
        typer.Option(
            help="Use this server, under a key of the demo's own that is removed again, instead of "
            "one that the demo starts and stops.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """27,004 real flights into a stream and back.

    Publishes flights as stream entries, reads them back into a typed DataFrame, checks that nothing
    was lost, and aggregates.
    """
    try:
        check_url(url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error
    return run_demo(url)
