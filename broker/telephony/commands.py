"""What the CLI shows."""

from typing import Unpack

from broker.telephony.arguments import given
from broker.telephony.asking import Asking, Options, known


class Commands(Asking):
    """The CLI."""

    async def command(self, line: str, **options: Unpack[Options]) -> list[str]:
        """The lines that the CLI answers to a command, such as `core show channels`.

        Raises `ActionFailed` for a command that fails or that there is not, with the CLI's words; they are in
        `error.result.output`, too. Only commands that show something harmless pass the worker; others are
        `ActionRejected` (code `forbidden`) unless its setting `allow` holds `Command`.

        AMI: Command (16 to 22; class `command`).
        """
        return (await self.request("Command", Command=given("line", line), **known(options))).output
