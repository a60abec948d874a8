"""Dialling from any channel to any extension or application."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Unpack

from broker.entry import printable
from broker.telephony.arguments import given, milliseconds, one_line, refused
from broker.telephony.asking import Asking, Options, known

if TYPE_CHECKING:
    from broker.call import Call

Variables = Mapping[str, str | int | float]

_EATEN: Final = str.maketrans({character: f"\\{character}" for character in '\\",'})
"""What means something to Asterisk when it cuts a Variable at its commas (app.c, __ast_app_separate_args)."""

_EATEN_IN_NAMES: Final = str.maketrans({character: f"\\{character}" for character in '\\"'})


class Dialling(Asking):
    """Placing calls."""

    async def originate(
        self,
        channel: str,
        exten: str | None = None,
        context: str = "default",
        priority: int | str = 1,
        *,
        application: str | None = None,
        data: str | None = None,
        caller_number: str | None = None,
        caller_name: str | None = None,
        variables: Variables | None = None,
        account: str | None = None,
        ring_s: float | None = None,
        early_media: bool = False,
        codecs: Sequence[str] = (),
        channel_id: str | None = None,
        other_channel_id: str | None = None,
        **options: Unpack[Options],
    ) -> "Call":
        """Dial a channel and, once it has answered, let it run an extension or an application.

            call = await pbx.originate("PJSIP/100", "200", "internal", caller_number="200", ring_s=20)
            call = await pbx.originate("Local/100@default", application="Playback", data="hello-world")

        `channel` is what is dialled, technology and address. It then goes to `exten` of `context` at `priority` (a
        number or a label), or to `application` with `data`: one of the two. `caller_number` loses its blanks to
        Asterisk. `ring_s` is how long it may ring (Asterisk's default: 30). `variables` are set on the channel, their
        values exactly as given; a name may begin with `_` or `__` to be inherited, or be a dialplan function. `account`
        is the account code. With `early_media` the extension begins as soon as there is sound, before the answer.
        `codecs` are those that may be used (default: slin, which means transcoding). `channel_id` becomes the channel's
        Uniqueid, `other_channel_id` that of the far leg of a Local channel; the worker gives one if you do not.

        Returns the `Call` when Redis has taken it, as `submit` does: its `result` says how the dialling went. The
        `timeout` is how many seconds Redis may take. Raises `Refused`, `BusUnavailable`.

        AMI: Originate, always asynchronous (16 to 22; class `originate`). Without class `system` Asterisk itself
        refuses some applications, and some words in `data`; amibus refuses those that run code (`ActionRejected`,
        code `forbidden`) unless the worker's setting `allow` names them, such as `Originate:System`.
        """
        if (exten is None) is (application is None):
            raise refused("a call is connected either to an extension or to an application")
        if exten is not None and data is not None:
            raise refused("data is for an application, and there is none")
        if exten is None and early_media:
            raise refused("early_media is for an extension: Asterisk ignores it for an application")
        return await self.submit(
            "Originate",
            Channel=given("channel", channel),
            Exten=exten if exten is None else given("exten", exten),
            Context=given("context", context) if exten is not None else None,
            Priority=priority if exten is not None else None,
            Application=application if application is None else given("application", application),
            Data=data,
            CallerID=caller_id(caller_number, caller_name),
            Variable=[variable(name, value) for name, value in (variables or {}).items()],
            Account=account,
            Timeout=milliseconds("ring_s", ring_s),
            EarlyMedia=True if early_media else None,
            Codecs=",".join(codecs) or None,
            ChannelId=channel_id,
            OtherChannelId=other_channel_id,
            **known(options),
        )


def caller_id(number: str | None, name: str | None) -> str | None:
    """A caller's number and name as Asterisk reads them: `"Name" <number>` (callerid.c, ast_callerid_parse)."""
    if number is None and name is None:
        return None
    if number is not None and any(character in number for character in '<>"'):
        raise refused(f"caller_number {printable(number)} holds a bracket or a quote")
    if name is None:
        return f"<{number}>"
    quoted = name.translate(_EATEN_IN_NAMES)
    return f'"{quoted}" <{number or ""}>'


def variable(name: str, value: str | int | float) -> str:
    """A channel variable as a Variable header takes it: one, whatever commas, quotes or brackets its value holds."""
    if "=" in given("variable name", name):
        raise refused(f"the name of the variable {printable(name)} holds =")
    return one_line("Variable", f"{name}={value}".translate(_EATEN))
