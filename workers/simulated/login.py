"""Login, Challenge, Logoff and Events: what a session is told about itself."""

import asyncio
import hashlib

from workers.simulated.ledger import LoginAttempt
from workers.simulated.received import Received, error, respond, success
from workers.simulated.registry import action
from workers.simulated.session import Session
from workers.simulated.users import User, event_mask


@action("Challenge", synopsis="Generate Challenge for MD5 Auth.")
def challenge(session: Session, action: Received) -> str:
    if action.get("AuthType").lower() != "md5":
        return error(action, "Must specify AuthType")
    session.challenge = session.challenge or str(session.asterisk.random.randrange(10**8, 10**9))
    return respond(action, "Success", ("Challenge", session.challenge))


@action("Login", synopsis="Login Manager.")
def login(session: Session, action: Received) -> str | None:
    if session.user is not None:
        return success(action, "Already authenticated")
    asterisk = session.asterisk
    name = action.get("Username")
    user = asterisk.users.get(name.lower())
    accepted = user is not None and not asterisk.faults.refuse_login and _proves(session, user, action)
    asterisk.logins.append(LoginAttempt(name, accepted, session.number, asyncio.get_running_loop().time()))
    if user is None or not accepted:
        asyncio.get_running_loop().call_later(asterisk.login_delay_s, _refuse, session, action)
        return None
    session.username, session.user = name, user
    session.mask = event_mask(action.get("Events", "on"), user.read)
    text = success(action, "Authentication accepted")
    if "system" in session.mask and asterisk.is_booted:
        text += asterisk.fully_booted()
    return text


@action("Logoff", synopsis="Logoff Manager.")
def logoff(session: Session, action: Received) -> None:
    session.answer(respond(action, "Goodbye", ("Message", "Thanks for all the fish.")), last=True)


@action("Events", synopsis="Control Event Flow.")
def events(session: Session, action: Received) -> str:
    mask = action.get("EventMask")
    if not mask or session.user is None:
        return error(action, "Invalid event mask")
    session.mask = event_mask(mask, session.user.read)
    return respond(action, "Success", ("Events", "On" if session.mask else "Off"))


def _proves(session: Session, user: User, action: Received) -> bool:
    if action.get("AuthType").lower() == "md5":
        # The protocol's own choice of digest.
        key = hashlib.md5((session.challenge + user.secret).encode(), usedforsecurity=False).hexdigest()
        return bool(session.challenge) and key == action.get("Key")
    return bool(user.secret) and user.secret == action.get("Secret")


def _refuse(session: Session, action: Received) -> None:
    if not session.closing:
        session.answer(error(action, "Authentication failed"), last=True)
