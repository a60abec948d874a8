"""Sending live calls elsewhere, and joining them."""

from typing import Final, Unpack

from broker.telephony.arguments import channel_name, given, refused
from broker.telephony.asking import Options, known
from broker.telephony.channels import Channels

_SPLITS: Final = frozenset(',()"\\')
"""What would end an argument of a dialplan function."""


class Redirection(Channels):
    """Redirecting, transferring and bridging."""

    async def has_extension(
        self,
        exten: str,
        context: str = "default",
        priority: int | str = 1,
        *,
        channel: str | None = None,
        **options: Unpack[Options],
    ) -> bool | None:
        """Whether the dialplan has an extension, at this priority or label; None if this Asterisk cannot tell.

        `redirect` and `hold_at` do not look, nor does Asterisk: a channel that is sent where nothing is is hung up.
        `channel` is a live one, for extensions that depend on who calls. Raises `ActionFailed` if there is no such
        channel.

        AMI: Getvar of the function DIALPLAN_EXISTS (16 to 22; module func_dialplan.so, without which it is None; class
        `call` or `reporting`).
        """
        where = [given("context", context), given("exten", exten), str(priority)]
        if any(_SPLITS.intersection(part) for part in where):
            return None
        found = await self.getvar(f"DIALPLAN_EXISTS({','.join(where)})", channel, **options)
        return found == "1" if found else None

    async def redirect(
        self,
        channel: str,
        exten: str,
        context: str = "default",
        priority: int | str = 1,
        *,
        other: str | None = None,
        other_exten: str | None = None,
        other_context: str | None = None,
        other_priority: int | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Send a live channel, and with `other` a second one in the same instant, to an extension of the dialplan.

            await pbx.redirect(caller, "600", "conferences")                          # into a conference
            await pbx.redirect(caller, "900123456", "outgoing")                       # to an outside line
            await pbx.redirect(caller, "600", "conferences", other=agent)             # both legs
            await pbx.redirect(caller, "music", "holding", other=agent, other_exten="200", other_context="internal")

        Any destination is an extension: one that runs `ConfBridge`, `Dial` to a trunk, `Queue`, `VoiceMail`. Channels
        are given by name or Uniqueid. The second one goes to the same place unless `other_exten` says where (in
        the same context, at priority 1, unless those are given, too). Of two channels in a bridge the
        one that is not redirected goes on in its own dialplan, which most often hangs it up.

        Returns when the channels are on their way, a moment before they are there. Raises `ActionFailed`: no such
        channel; no such priority or label; 'Secondary redirect failed', when `channel` has gone and `other` has not.
        A number that the dialplan does not have is no error to Asterisk, and ends the call: where a person types it,
        ask `has_extension` first.

        AMI: Redirect, with ExtraChannel for the second (16 to 22; class `call`).
        """
        if other is None and other_exten is not None:
            raise refused("other_exten is for another channel, and there is none")
        if other_exten is None and (other_context, other_priority) != (None, None):
            raise refused("other_context and other_priority belong to other_exten, and there is none")
        elsewhere = other_exten is not None
        await self.request(
            "Redirect",
            Channel=channel_name(channel),
            Exten=given("exten", exten),
            Context=given("context", context),
            Priority=priority,
            ExtraChannel=None if other is None else channel_name(other, "other"),
            ExtraExten=other_exten,
            ExtraContext=(other_context or context) if elsewhere else None,
            ExtraPriority=(1 if other_priority is None else other_priority) if elsewhere else None,
            **known(options),
        )

    async def transfer(self, channel: str, exten: str, context: str = "default", **options: Unpack[Options]) -> None:
        """Transfer blindly whoever `channel` talks to, as if its phone had done it; `channel` is hung up.

        Raises `ActionFailed` if the channel is in no bridge, or may not transfer.

        AMI: BlindTransfer (16 to 22; class `call`).
        """
        asked = {"Channel": channel_name(channel), "Exten": given("exten", exten), "Context": given("context", context)}
        await self.request("BlindTransfer", headers=asked, **known(options))

    async def bridge(self, channel: str, other: str, *, tone: bool = False, **options: Unpack[Options]) -> None:
        """Connect two live channels with each other, wherever they are now; with `tone` both hear a beep.

        Whoever either of them talked to is left alone, and goes on in its own dialplan. Raises `ActionFailed` if
        there is no such channel, or they cannot be bridged.

        AMI: Bridge (16 to 22; class `call`), which takes the beginning of a name for the name: so their whole names
        are asked for first (Getvar).
        """
        others = options.copy()
        others.pop("action_id", None)  # it is that of the Bridge
        first = await self.getvar("CHANNEL", channel, **others)
        second = await self.getvar("CHANNEL", channel_name(other, "other"), **others)
        await self.request("Bridge", Channel1=first, Channel2=second, Tone="Both" if tone else None, **known(options))
