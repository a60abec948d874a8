"""What the manager interface is used for, by name: typed calls on `Server` and `Call`, and what they return.

One file per topic. A call is a method of a mixin class that asks by `request` and `submit`; what comes back is a
frozen dataclass whose fields have types and units, with Asterisk's own headers beside them.
"""

from broker.telephony.asking import Asking, Options
from broker.telephony.channels import Channel
from broker.telephony.commands import Commands
from broker.telephony.conferences import Conference, ConferenceMember, ConferenceRoom, Conferences
from broker.telephony.control import ChannelControl
from broker.telephony.dialling import Dialling
from broker.telephony.mailboxes import Mailbox, Mailboxes, MailboxUser
from broker.telephony.parking import ParkedCall, Parking
from broker.telephony.peers import IaxPeer, Peers, PjsipContact, PjsipEndpoint
from broker.telephony.queues import Queue, QueueCaller, QueueMember, Queues
from broker.telephony.recording import Recording, Recordings
from broker.telephony.states import DeviceState, ExtensionState, PresenceState, States

__all__ = [
    "Asking",
    "Channel",
    "ChannelControl",
    "Conference",
    "ConferenceMember",
    "ConferenceRoom",
    "DeviceState",
    "ExtensionState",
    "IaxPeer",
    "Mailbox",
    "MailboxUser",
    "Options",
    "ParkedCall",
    "PjsipContact",
    "PjsipEndpoint",
    "PresenceState",
    "Queue",
    "QueueCaller",
    "QueueMember",
    "Recording",
    "TypedCalls",
]


class TypedCalls(Commands, Conferences, Dialling, Mailboxes, Parking, Peers, Queues, Recordings, States):
    """All typed calls of a server. (Parking redirects, and what redirects looks at channels.)"""
