"""The asyncio client: put AMI actions on the bus, await their results, follow calls, read events.

    async with Bus("redis://127.0.0.1:6379/0") as bus:
        pbx = bus.server("pbx1")
        result = await pbx.request("CoreShowChannels")
        async with await pbx.submit("Originate", Channel="PJSIP/100", Application="Echo") as call:
            async for event in call.events():
                print(event.name)
        async for event in pbx.events("Newchannel", "Hangup"):
            print(event.id, event.headers["Channel"])

A Bus uses two connections however many callers it has, and one more for each iteration over `Server.events`.
"""

import asyncio
import base64
import contextlib
import os
import weakref
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Final, Self

from broker.call import Call
from broker.codec import BusEvent, Result
from broker.dispatcher import Dispatcher
from broker.entry import HeaderValue, encode_action
from broker.errors import AmibusError, BusUnavailable, ErrorCode, Refused, ResultTimeout
from broker.event_stream import NOW, EventStream
from broker.follow import FollowedCall
from broker.items import with_items
from broker.keys import ACTIONS, DEFAULT_PREFIX, URGENT, Keys, servers_key
from broker.link import Address, Links
from broker.noise import without_noise
from broker.pipeline import Pipeline
from broker.record import Record, decode_record, text_fields
from broker.submission import Submission, Submissions
from broker.telephony import TypedCalls
from broker.telephony.asking import ExtraHeaders

_FIRST_PLAUSIBLE_DEADLINE: Final = 1e9
"""Unix seconds of 2001: a smaller number was meant as seconds from now."""


class Bus:
    """A client of the bus: `async with Bus(url) as bus: ...`, or `await bus.close()` at the end.

    `url` is redis-py's: `redis://[[user]:password@]host[:port][/db]`, `rediss://` for TLS, `unix://`; or it names
    sentinels: `redis+sentinel://[[user]:password@]host:port[,host:port...]/SERVICE[/db][?sentinel_password=..]`.
    `prefix` is that of all keys, `producer` the default `Bus-Producer` of what is put on the queue. All of it
    belongs to one event loop. Raises `SettingsError` for a URL or prefix that cannot be.
    """

    def __init__(self, url: str, prefix: str = DEFAULT_PREFIX, producer: str | None = None) -> None:
        Keys("any", prefix)  # refuses a wrong prefix now rather than at the first server
        self.prefix = prefix
        self.producer = producer
        self._address = Address(url)
        self._pipeline = Pipeline(self._address)
        self._dispatcher = Dispatcher(self._address)
        self._links = Links(self._address)
        self._reply = _random_name("c-")
        self._servers: dict[str, Server] = {}

    def __repr__(self) -> str:
        return f"<Bus {self._address.masked} prefix={self.prefix}>"

    async def __aenter__(self) -> Self:
        try:
            await self._pipeline.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def server(self, name: str) -> "Server":
        """One Asterisk server by its name. Raises `SettingsError` for a name that the contract does not allow."""
        server = self._servers.get(name)
        if server is None:
            keys = Keys(name, self.prefix)
            server = Server(keys, self.producer, self._reply, self._pipeline, self._dispatcher, self._links)
            self._servers[name] = server
        return server

    async def servers(self) -> dict[str, float]:
        """The names of all servers that ever had a worker, with the unix time of its last heartbeat."""
        reply = await self._pipeline.execute("ZRANGE", servers_key(self.prefix), 0, -1, "WITHSCORES")
        return {name.decode(): float(beat) for name, beat in zip(reply[::2], reply[1::2], strict=True)}

    async def time(self) -> float:
        """Unix seconds by Redis' clock, by which deadlines are judged. Raises `BusUnavailable`."""
        seconds, microseconds = await self._pipeline.execute("TIME")
        return int(seconds) + int(microseconds) / 1e6

    async def close(self) -> None:
        """Close the connections.

        Whoever still waits gets `BusUnavailable`; the actions go on. Harmless when repeated.
        """
        await self._dispatcher.close()  # first: from now on nobody can begin to wait, on whichever server
        for server in tuple(self._servers.values()):
            await server._close(BusUnavailable("the bus is closed"))
        await self._links.close()
        await self._pipeline.close()


class Server(TypedCalls):
    """One Asterisk server, as `Bus.server` gives it.

    `request` takes any action by its name; `originate`, `redirect`, `queues` and the like are the usual ones, with
    typed arguments and values. All of these take the options of `request`, such as `timeout` and `deadline`.
    """

    def __init__(
        self,
        keys: Keys,
        producer: str | None,
        reply: str,
        pipeline: Pipeline,
        dispatcher: Dispatcher,
        links: Links,
    ) -> None:
        self.name = keys.server
        self._keys = keys
        self._producer = producer
        self._reply = reply
        self._pipeline = pipeline
        self._dispatcher = dispatcher
        self._links = links
        self._submissions = Submissions(keys, pipeline)
        self._listening: asyncio.Task[None] | None = None
        self._followed: weakref.WeakSet[FollowedCall] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<Server {self.name}>"

    async def request(
        self,
        /,
        action: str,
        *,
        timeout: float | None = None,
        action_id: str | None = None,
        urgent: bool = False,
        producer: str | None = None,
        deadline: float | str | None = None,
        answer_timeout: float | None = None,
        tag: str | None = None,
        traceparent: str | None = None,
        headers: ExtraHeaders = (),
        raise_on_failure: bool = True,
        **pairs: HeaderValue,
    ) -> Result:
        """Put an action on the queue and wait for its whole result.

            result = await pbx.request("QueueAdd", Queue="support", Interface="PJSIP/100", deadline="+10")

        Headers are keyword arguments, spelled as in AMI; a list repeats the header, None leaves it out. Names
        that are no Python identifiers go into `headers`. `timeout` is the caller's own patience in seconds
        (None: without end): when it ends the action goes on, so give a `deadline` as well to what must not
        happen late. `deadline` is unix seconds, or text such as `+30`, seconds after the action was queued:
        it is not sent any more then (default `+1800`). `answer_timeout` is how many seconds Asterisk has for
        its answer once it is sent (default 30). `urgent` takes the lane that is served first. `action_id`
        makes a repetition harmless, as far as the contract says.

        Raises the `ActionError` of the action's state unless it is `done` (not with
        `raise_on_failure=False`); `ResultTimeout`; `Refused` for what could never be sent; `ItemsGone`;
        `BusUnavailable`.
        """
        submission = self._submission(
            action, action_id, urgent, headers, pairs, producer, deadline, answer_timeout, tag, traceparent
        )
        try:
            async with self._patience(submission, timeout):
                await self._listen()
                self._submissions.register(submission)
                await self._add(submission)
                result = await with_items(await submission.settled(), self._keys, self._pipeline)
        finally:
            self._submissions.forget(submission)
        return result.raise_for_state() if raise_on_failure else result

    async def submit(
        self,
        /,
        action: str,
        *,
        timeout: float | None = None,
        action_id: str | None = None,
        urgent: bool = False,
        producer: str | None = None,
        deadline: float | str | None = None,
        answer_timeout: float | None = None,
        tag: str | None = None,
        traceparent: str | None = None,
        headers: ExtraHeaders = (),
        **pairs: HeaderValue,
    ) -> Call:
        """Put an action on the queue, listening to it from before it is there; returns when Redis has taken
        it.

            call = await pbx.submit("Originate", Channel="PJSIP/100", Application="Echo", Variable=["a=1",
            "b=2"])

        The arguments are those of `request`; `timeout` is how many seconds Redis may take. Raises `Refused`,
        `BusUnavailable`.
        """
        submission = self._submission(
            action, action_id, urgent, headers, pairs, producer, deadline, answer_timeout, tag, traceparent
        )
        call = Call(self, submission, self._submissions, self._pipeline, self._dispatcher)
        try:
            async with self._patience(submission, timeout):
                await self._listen()
                self._submissions.register(submission)
                await call._open()
                await self._add(submission)
        except BaseException:
            call.close()
            self._submissions.forget(submission)
            raise
        call._start()
        return call

    async def follow(self, uniqueid: str, *, timeout: float | None = None) -> FollowedCall:
        """Follow a live call that the bus did not place, by the Uniqueid of one of its channels.

            async for event in pbx.events("Newchannel"):
                call = await pbx.follow(event.headers["Uniqueid"])
                print(await call.answered())

        Its legs are that channel, those that now have the same Linkedid, and all that join them. The worker publishes
        their events on the call's own channel from now on; it is asked again as long as somebody holds the call.
        `timeout` is how many seconds its answer may take (None: without end). Raises `ActionFailed`: there is no such
        channel (code `asterisk-error`), Asterisk is away (`not-executed`); `ActionRejected`, code `forbidden`: 1,000
        calls are followed already; `ResultTimeout`; `BusUnavailable`.
        """
        call = FollowedCall(self, uniqueid, self._keys, self._submissions, self._pipeline, self._dispatcher)
        try:
            await call._open(timeout)
        except BaseException:
            call.close()
            raise
        self._followed.add(call)
        return call

    def events(self, *names: str, since: str = NOW) -> AsyncGenerator[BusEvent]:
        """AMI events from the server's `events` stream: all, or those of the names given. Never ends by
        itself.

            async for event in pbx.events("Newchannel", "Hangup"):
                print(event.id, event.headers["Channel"])

        `since` is `$` (from this call on), `0` (all that is kept), or the `id` of an event seen before (what
        came after it). Nothing is missed while the connection is away; what was trimmed from the stream
        meanwhile is announced by a `BusGap` event whose header `reason` is `trimmed` and whose `dropped` is
        how many, where that is known. Raises `BusUnavailable` if Redis refuses, or cannot be reached at the
        start.
        """
        return EventStream(self._keys, self._pipeline, self._links, names, since).events()

    async def action_record(self, action_id: str) -> Record | None:
        """The record of an action, None if there is none: not taken up yet, or expired. Raises `BusUnavailable`."""
        reply = await self._pipeline.execute("HGETALL", self._keys.action(action_id))
        return decode_record(self.name, action_id, reply)

    async def status(self) -> dict[str, str]:
        """The active worker's heartbeat as the contract has it; empty if no worker is active.

        Raises `BusUnavailable`.
        """
        reply = await self._pipeline.execute("HGETALL", self._keys.worker)
        return text_fields(dict(zip(reply[::2], reply[1::2], strict=True)))

    def _submission(
        self,
        action: str,
        action_id: str | None,
        urgent: bool,
        headers: ExtraHeaders,
        pairs: Mapping[str, HeaderValue],
        producer: str | None,
        deadline: float | str | None,
        answer_timeout: float | None,
        tag: str | None,
        traceparent: str | None,
    ) -> Submission:
        given = [*pairs.items(), *(headers.items() if isinstance(headers, Mapping) else headers)]
        action_id, given = _own_action_id(action_id, given)
        fields = encode_action(
            action,
            given,
            action_id=action_id,
            producer=producer or self._producer,
            deadline=_deadline(deadline),
            timeout_s=answer_timeout,
            reply=self._reply,
            tag=tag,
            traceparent=traceparent,
        )
        for text in fields:
            _must_be_utf8(text)
        return Submission(action_id, fields, URGENT if urgent else ACTIONS)

    async def _listen(self) -> None:
        """Subscribe to the reply channel, once for all callers; it stays so, whatever becomes of the connection."""
        listening = self._listening
        if listening is None or (listening.done() and not _succeeded(listening)):
            listening = asyncio.create_task(self._begin_to_listen(), name=f"amibus listens to {self.name}")
            without_noise(listening)  # all who wait for it may give up before it fails
            self._listening = listening
        if not listening.done():
            # Waited for, not awaited: one impatient caller must not end what the others wait for.
            await asyncio.wait([listening])
        if listening.cancelled():
            raise BusUnavailable("the bus is closed")
        listening.result()

    async def _begin_to_listen(self) -> None:
        await self._dispatcher.subscribe(self._keys.reply(self._reply), self._submissions)
        # Whoever may not read records would wait for ever for a result whose message was lost: better said at
        # once.
        await self._pipeline.execute("HGETALL", self._keys.action(self._reply))

    async def _add(self, submission: Submission) -> None:
        lane = self._keys.lane(submission.lane)
        # Repeated if its reply is lost: the ActionID makes a second entry a duplicate, which is never sent.
        entry = await self._pipeline.execute("XADD", lane, "*", *submission.fields)
        if submission.added(entry.decode()):
            self._submissions.look_soon(submission)

    @contextlib.asynccontextmanager
    async def _patience(self, submission: Submission, timeout_s: float | None) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(timeout_s) as patience:
                yield
        except TimeoutError as error:
            if not patience.expired() or timeout_s is None:
                raise
            if submission.entry is None:
                raise BusUnavailable(
                    f"Redis did not take {submission.action} within {timeout_s:g} s; repeat it with the same"
                    f" ActionID, {submission.action_id}"
                ) from error
            raise ResultTimeout(submission.action_id, timeout_s) from None

    async def _close(self, error: AmibusError) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.wait([listening])
        await self._submissions.close(error)
        for call in tuple(self._followed):
            call._following.fail(error)


def _succeeded(task: "asyncio.Task[None]") -> bool:
    return not task.cancelled() and task.exception() is None


def _random_name(prefix: str) -> str:
    return prefix + base64.b32encode(os.urandom(13)).decode().lower()[:20]


def _own_action_id(
    action_id: str | None, given: list[tuple[str, HeaderValue]]
) -> tuple[str, list[tuple[str, HeaderValue]]]:
    """The ActionID, given as an option or (as AMI's users write it) as a header, or a new one; and the other
    headers."""
    ids = [str(value) for name, value in given if name.lower() == "actionid" and value is not None]
    if action_id is not None:
        ids.append(action_id)
    if len(ids) > 1:
        raise Refused(ErrorCode.BAD_ACTION_ID, "ActionID is given twice")
    others = [(name, value) for name, value in given if name.lower() != "actionid"]
    return (ids[0] if ids else _random_name("b-")), others


def _deadline(deadline: float | str | None) -> float | str | None:
    if isinstance(deadline, int | float) and deadline < _FIRST_PLAUSIBLE_DEADLINE:
        raise Refused(
            ErrorCode.MALFORMED,
            f"deadline {deadline:g} is in unix seconds, long past: write '+{deadline:g}' for seconds from now",
        )
    return deadline


def _must_be_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(ErrorCode.BAD_HEADER, f"{text[:40]!a} cannot be written as UTF-8") from None
