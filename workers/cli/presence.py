"""Whether anybody serves the queue on which a command waits."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from broker import Server

NOTICE_S: Final = 1.5
"""With no result after so long, it is looked whether anybody serves the queue at all."""


async def notice_absence(pbx: "Server", what: str = "what was asked") -> None:
    """Say so if an action waits for a worker that is not there."""
    await asyncio.sleep(NOTICE_S)
    heartbeat = await pbx.status()
    if not heartbeat:
        click.echo(f"amibus: no worker serves {pbx.name} now; {what} waits on its queue", err=True)
    elif heartbeat.get("state") == "asterisk-away":
        click.echo(f"amibus: the worker of {pbx.name} has no connection to Asterisk now", err=True)


async def ended(task: "asyncio.Task[Any] | None") -> None:
    """End a task that goes on beside the command."""
    if task is not None:
        task.cancel()
        # Its error, if it has one, is the command's too: the bus is gone.
        await asyncio.gather(task, return_exceptions=True)
