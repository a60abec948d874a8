"""Recording live channels to files of one's own name."""

from dataclasses import dataclass
from typing import Final, Literal, Unpack

from broker.telephony.arguments import channel_name, file_name, given
from broker.telephony.asking import Asking, Options, known

_ID_VARIABLE: Final = "AMIBUS_RECORDING"
"""The channel variable in which MixMonitor leaves the id of the recording begun last, for its answer to hold it."""

Side = Literal["both", "heard", "spoken"]


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording that has begun, as `record` returns it."""

    channel: str
    """The channel as it was given."""
    file: str
    """The file as it was given."""
    id: str
    """Asterisk's id for it: of several recordings of a channel it tells which one to stop."""


class Recordings(Asking):
    """Recording."""

    async def record(
        self,
        channel: str,
        file: str,
        *,
        append: bool = False,
        only_while_bridged: bool = False,
        **options: Unpack[Options],
    ) -> Recording:
        """Record a live channel, both directions mixed, to a file of that name until it hangs up or is stopped.

            recording = await pbx.record(channel, "2026/order-4711.wav")
            await pbx.stop_recording(channel, recording)

        The ending of `file` says the format (wav, gsm, sln ...); a relative name is below Asterisk's directory of
        recordings, `monitor` in its spool, an absolute one wherever Asterisk may write. A file that is there is
        overwritten unless `append`. With `only_while_bridged` nothing is written while the channel talks to nobody. A
        channel can have several recordings at once.

        Without an ending it is raw. Asterisk opens the file later, and tells nobody if it cannot: with a format that it
        does not have, or a directory that it may not write, there is no error, and no file.

        Refuses a name with a comma: what follows it would be options, and a program to run. Raises `ActionFailed` if
        there is no such channel.

        AMI: MixMonitor (16 to 22; module app_mixmonitor.so; class `system`, which `deploy/manager.conf` does not
        give). For a program to run on the file use `request("MixMonitor", ..., Command=...)`, and allow the worker
        `MixMonitor:Command`.
        """
        flags = ("a" if append else "") + ("b" if only_while_bridged else "")
        result = await self.request(
            "MixMonitor",
            Channel=channel_name(channel),
            File=file_name(file),
            Options=f"{flags}i({_ID_VARIABLE})",
            **known(options),
        )
        answer = result.response
        return Recording(channel, file, "" if answer is None else answer.get("MixMonitorID", ""))

    async def stop_recording(
        self, channel: str, recording: Recording | str | None = None, **options: Unpack[Options]
    ) -> None:
        """Stop a recording of a channel, given as `record` returned it or by its id; without one, the one begun last.

        Raises `ActionFailed` if there is no such channel, or it is not being recorded.

        AMI: StopMixMonitor (16 to 22; module app_mixmonitor.so; class `call` or `system`).
        """
        wanted = recording.id if isinstance(recording, Recording) else recording
        await self.request(
            "StopMixMonitor", Channel=channel_name(channel), MixMonitorID=wanted or None, **known(options)
        )

    async def mute_recording(
        self, channel: str, muted: bool = True, *, side: Side = "both", **options: Unpack[Options]
    ) -> None:
        """Write silence to the recordings of a channel from now on, say while a card number is told; or no longer.

        `side` is what the channel hears, what it has spoken, or both.

        AMI: MixMonitorMute (16 to 22; module app_mixmonitor.so; class `call` or `system`).
        """
        direction = {"both": "both", "heard": "write", "spoken": "read"}[side]
        await self.request(
            "MixMonitorMute",
            Channel=channel_name(channel),
            Direction=direction,
            State=1 if muted else 0,
            **known(options),
        )

    async def monitor(
        self, channel: str, file: str, file_format: str = "wav", *, mix: bool = True, **options: Unpack[Options]
    ) -> None:
        """Record a live channel by Monitor, of Asterisk up to 20: each direction to a file of its own, `FILE-in` and
        `FILE-out`, which become one at the end if `mix` (by the program sox, if it is there).

        Elsewhere raises `NoSuchAction`, and `record` is what to use.

        AMI: Monitor (16 to 20; module res_monitor.so, class `call`).
        """
        await self.request(
            "Monitor",
            Channel=channel_name(channel),
            File=given("file", file),
            Format=given("file_format", file_format),
            Mix=True if mix else None,
            **known(options),
        )

    async def stop_monitor(self, channel: str, **options: Unpack[Options]) -> None:
        """Stop what `monitor` began, if it still goes on. Raises `NoSuchAction` where there is no Monitor.

        AMI: StopMonitor (16 to 20; module res_monitor.so, class `call`).
        """
        await self.request("StopMonitor", Channel=channel_name(channel), **known(options))
