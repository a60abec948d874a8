"""Voicemail: how many messages wait in which mailbox."""

from dataclasses import dataclass, field
from typing import Self, Unpack

from broker.ami import Headers
from broker.telephony.arguments import given
from broker.telephony.asking import Asking, Options, items_of, known
from broker.telephony.reading import count, text


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The messages of one mailbox, as MailboxCount counts them."""

    name: str
    context: str
    urgent: int
    new: int
    """Without the urgent ones."""
    old: int
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @property
    def is_waiting(self) -> bool:
        """Whether there is a message that nobody has heard, which is what lights a lamp."""
        return self.urgent + self.new > 0


@dataclass(frozen=True, slots=True)
class MailboxUser:
    """A mailbox with its owner, as VoicemailUsersList has it."""

    name: str
    context: str
    owner: str
    email: str
    new: int
    old: int
    max_messages: int
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a VoicemailUserEntry."""
        return cls(
            name=text(headers, "VoiceMailbox"),
            context=text(headers, "VMContext"),
            owner=text(headers, "Fullname"),
            email=text(headers, "Email"),
            new=count(headers, "NewMessageCount"),
            old=count(headers, "OldMessageCount"),
            max_messages=count(headers, "MaxMessageCount"),
            headers=headers,
        )


class Mailboxes(Asking):
    """Voicemail."""

    async def mailbox(self, name: str, context: str = "default", **options: Unpack[Options]) -> Mailbox:
        """How many messages a mailbox holds. One that there is not is empty: Asterisk does not tell it apart.

        AMI: MailboxCount (16 to 22; class `call` or `reporting`), which counts nothing without a voicemail module.
        """
        whole = f"{given('name', name)}@{given('context', context)}"
        headers = (await self.request("MailboxCount", Mailbox=whole, **known(options))).response or Headers([])
        return Mailbox(
            name=name,
            context=context,
            urgent=count(headers, "UrgMessages"),
            new=count(headers, "NewMessages"),
            old=count(headers, "OldMessages"),
            headers=headers,
        )

    async def mailboxes(self, **options: Unpack[Options]) -> list[MailboxUser]:
        """All mailboxes that are configured, with their owners. It looks into each, which is slow for very many.

        AMI: VoicemailUsersList (16 to 22; module app_voicemail.so, class `call` or `reporting`).
        """
        items = await items_of(self, "VoicemailUsersList", "VoicemailUserEntry", **options)
        return [MailboxUser.of(headers) for headers in items]
