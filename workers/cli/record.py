"""`amibus record`: record a live call, or stop it."""

from typing import Any

import click

from workers.cli.asking import asking_options, plain, question
from workers.cli.names import server_argument
from workers.cli.output import Cell


@click.command()
@server_argument()
@click.argument("channel")
@click.argument("file", required=False)
@click.option("--append", is_flag=True, help="Go on at the end of a file that is there.")
@click.option("--only-while-bridged", is_flag=True, help="Write nothing while the channel talks to nobody.")
@click.option("--stop", is_flag=True, help="Stop the recording that was begun last, or that of --id.")
@click.option("--id", "recording_id", metavar="ID", help="Of several recordings, which one to stop.")
@asking_options
def record(
    server: str, channel: str, file: str | None, append: bool, only_while_bridged: bool, stop: bool,
    recording_id: str | None, **given: Any,
) -> None:  # fmt: skip
    """Record a live channel to a file on Asterisk's host (MixMonitor), until it hangs up or is stopped.

    The ending of the file's name says the format (wav, gsm, ...; without one it is raw). A relative name is below
    Asterisk's directory of recordings. Asterisk does not tell if it cannot write there, or does not have the format:
    look for the file. The manager user needs the class `system`. Quote the name of a Local channel, which holds a
    semicolon.

    \b
    Examples:
      amibus record pbx1 PJSIP/100-0000002a order-4711.wav
      amibus record pbx1 PJSIP/100-0000002a --stop

    \b
    Exit codes:
      0  recording, or stopped
      1  there is no such channel, it is not being recorded, or it was refused
      2  wrong use
      3  nobody knows, or no answer in time
    """
    if stop is (file is not None):
        raise click.UsageError("give either a FILE to record to, or --stop")
    if recording_id is not None and not stop:
        raise click.UsageError("--id says which recording to --stop")
    asked = question(server, given)
    if file is None:
        asked.ask(lambda pbx: pbx.stop_recording(channel, recording_id, **asked.options))
        shown = {"stopped": channel}
        cells: list[Cell] = [("stopped", "green"), (channel, "bold")]
    else:
        begun = asked.ask(
            lambda pbx: pbx.record(channel, file, append=append, only_while_bridged=only_while_bridged, **asked.options)
        )
        shown = plain(begun)
        cells = [("recording", "green"), (channel, "bold"), f"to {file}", f"id {begun.id}" if begun.id else ""]
    if asked.output.as_json:
        asked.output.object(shown)
    else:
        asked.output.line(*cells)
