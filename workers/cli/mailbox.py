"""`amibus mailbox`: how many messages a mailbox holds."""

from typing import Any

import click

from workers.cli.asking import asking_options, plain, question, split_place
from workers.cli.names import server_argument


@click.command()
@server_argument()
@click.argument("mailbox", metavar="MAILBOX[@CONTEXT]")
@asking_options
def mailbox(server: str, mailbox: str, **given: Any) -> None:
    """Show how many messages wait in a voicemail box.

    A mailbox that does not exist is empty: Asterisk does not tell it apart.

    \b
    Examples:
      amibus mailbox pbx1 100
      amibus mailbox pbx1 100@sales --json

    \b
    Exit codes:
      0  shown
      1  it failed
      2  wrong use
      3  no answer in time
    """
    asked = question(server, given)
    name, context = split_place(mailbox)
    found = asked.ask(lambda pbx: pbx.mailbox(name, context, **asked.options))
    if asked.output.as_json:
        asked.output.object(plain(found))
        return
    urgent = (f"{found.urgent} urgent", "bold red") if found.urgent else "0 urgent"
    new = (f"{found.new} new", "bold yellow") if found.new else "0 new"
    asked.output.line((f"{found.name}@{found.context}", "bold"), urgent, new, f"{found.old} old")
