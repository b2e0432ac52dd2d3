"""``redfloe run``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from redfloe._cli.output import tell


def _target(value: str) -> str:
    module, _, name = value.partition(":")
    if not module or not name:
        msg = f"{value!r} names no app; write it as package.module:app"
        raise typer.BadParameter(msg)
    return value


def run_(
    target: Annotated[
        str,
        typer.Argument(
            help="Where the redfloe.messages.App is: package.module:app. The working directory is "
            "on the path.",
            metavar="MODULE:APP",
            callback=_target,
        ),
    ],
    workers: Annotated[int, typer.Option(min=1, help="The number of processes.")] = 1,
    grace: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How many seconds handlers have to return after SIGTERM.",
            show_default="the app's",
        ),
    ] = None,
) -> None:
    """Run an app of redfloe.messages in processes, until SIGTERM or Ctrl-C.

    A worker that dies is started again, after a pause that grows up to 30 seconds.

    SIGTERM and Ctrl-C let handlers that run return and give back the rest; a second Ctrl-C does not
    wait for them. The exit code is 0 if all workers ended well, 1 if the app cannot be loaded or a
    worker failed at last, 137 if one had to be killed.
    """
    if find_spec("pydantic_settings") is None:
        msg = "redfloe run needs the extra messages: pip install 'redfloe[messages]'"
        raise ModuleNotFoundError(msg)
    import asyncio

    from redfloe._cli.supervisor import Supervisor

    async def supervise() -> int:
        return await Supervisor(target, workers, grace, tell).run()

    raise typer.Exit(asyncio.run(supervise()))
