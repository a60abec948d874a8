"""A worker's desk: everything that it calls the scripts with, and what a test looks at afterwards."""

from pathlib import Path
from typing import Any

import redis.asyncio as aredis

from broker.ami import Headers, Response
from broker.codec import State, decode_message
from broker.entry import Request, decode_entry
from broker.keys import ACTIONS, GROUP, LANES, Keys
from broker.record import Record, decode_record
from broker.scripts import LAYOUTS, Script
from workers.config import Settings
from workers.job import Job, make_job
from workers.outcome import Outcome
from workers.records import Records

NAMES = sorted(path.stem for path in Path(__file__).parent.parent.joinpath("broker", "scripts").glob("*.lua"))
SETTLED_AT = 4102444807.0
"""When the desk says that actions end: seven seconds into the year 2100, after whatever was begun."""

DONE = Outcome(State.DONE, response=Headers([("Response", "Success"), ("Message", "Pong")]))


class Desk:
    """One server's keys and scripts, called as its worker calls them."""

    def __init__(self, url: str, publish: str = "PUBLISH") -> None:
        self.redis: Any = aredis.Redis.from_url(url, protocol=2)
        for command in ("XREADGROUP", "XRANGE"):
            self.redis.set_response_callback(command, lambda response, **_: response)
        self.settings = Settings(server="pbx1", name="w1")
        self.keys = Keys("pbx1")
        self.records = Records(self.settings)
        self.epoch = 1
        self.publish = publish
        self.scripts = {name: Script(name, self.keys) for name in NAMES}
        self.subscriber: Any = None

    async def open(self) -> None:
        await self.redis.set(self.keys.epoch, 1)
        for lane in LANES:
            await self.redis.xgroup_create(self.keys.lane(lane), GROUP, id="0", mkstream=True)

    async def close(self) -> None:
        if self.subscriber is not None:
            await self.subscriber.aclose()
        await self.redis.aclose()

    async def listen(self) -> None:
        self.subscriber = self.redis.pubsub()
        await self.subscriber.psubscribe("*")
        await self.subscriber.get_message(timeout=60)

    async def heard(self) -> list[tuple[str, Any]]:
        """Channel and message of all that was published so far."""
        await self.redis.publish("end", b"")
        heard: list[tuple[str, Any]] = []
        while True:
            message = await self.subscriber.get_message(ignore_subscribe_messages=True, timeout=60)
            assert message is not None, "the end never came"
            if message["channel"] == b"end":
                return heard
            channel = message["channel"].decode().removeprefix(self.keys.root)
            heard.append((channel, decode_message(message["data"])))

    async def take(self, *fields: str, lane: str = ACTIONS, entry: str = "*") -> Request:
        """Add an entry and read it, as a worker does: it is pending then."""
        asked = fields or ("Action", "Setvar", "ActionID", "a1", "Variable", "x", "Value", "1")
        added = await self.redis.execute_command("XADD", self.keys.lane(lane), entry, *asked)
        raw = await self.redis.execute_command("XREADGROUP", "GROUP", GROUP, "w1", "STREAMS", self.keys.lane(lane), ">")
        [[name, values]] = raw[0][1]
        assert name == added
        return decode_entry(lane, name.decode(), values)

    async def job(self, *fields: str, lane: str = ACTIONS) -> Job:
        return make_job(await self.take(*fields, lane=lane), "pbx1")

    async def mark(self, *jobs: Job, probe: bool = False) -> list[str]:
        items = [self.records.mark(job, probe=probe) for job in jobs]
        answer = await self.scripts["mark_sending"](self.redis, self.epoch, self.publish, "w1", items)
        for job, verdict in zip(jobs, answer[1:], strict=False):
            if verdict == b"sending":
                job.sending_at = float(answer[0])
        return [verdict.decode() for verdict in answer[1:]]

    async def sent(self, job: Job) -> None:
        response = Response(Headers([("Response", "Success"), ("Message", "queued")]))
        item = self.records.sent(job, response, 5.0)
        await self.scripts["mark_sent"](self.redis, self.epoch, self.publish, [item])

    async def settle(
        self, job: Job | Request, outcome: Outcome = DONE, *, lengths: tuple[int, int] = (100, 100), whole: bool = False
    ) -> str:
        request = job.request if isinstance(job, Job) else job
        item = self.records.settle(
            request, outcome, SETTLED_AT, job if isinstance(job, Job) else None, self.epoch, whole=whole
        )
        script = self.scripts["settle"]
        verdicts: list[bytes] = await script(self.redis, self.epoch, self.publish, *lengths, [item])
        return verdicts[0].decode()

    async def revise(self, outcome: Outcome = DONE, action_id: str = "a1", **changed: Any) -> str:
        """Hand in the truth about an action, as its record has it, with some values of the item changed."""
        raw = [part for pair in (await self.redis.hgetall(self.keys.action(action_id))).items() for part in pair]
        record = decode_record("pbx1", action_id, raw) or Record("pbx1", action_id, {"state": "unknown"})
        layout = LAYOUTS["settle"]
        item = layout.item(layout.values(self.records.revision(record, outcome, 9.0)) | changed)
        verdicts: list[bytes] = await self.scripts["settle"](self.redis, 0, self.publish, 100, 100, [item])
        return verdicts[0].decode()

    async def events(self, first: int, *items: tuple[str, bytes, list[str], list[Any]], length: int = 1000) -> int:
        answer: int = await self.scripts["publish_events"](
            self.redis, self.epoch, self.publish, length, 1, first, first, list(items)
        )
        return answer

    async def record(self, action_id: str = "a1") -> dict[str, bytes]:
        record = await self.redis.hgetall(self.keys.action(action_id))
        return {name.decode(): value for name, value in record.items()}

    async def ttl_ms(self, action_id: str = "a1") -> int:
        ttl: int = await self.redis.pttl(self.keys.action(action_id))
        return ttl

    async def backlog(self, lane: str = ACTIONS) -> tuple[int, int]:
        """Entries in the lane, and of those the pending ones."""
        stream = self.keys.lane(lane)
        pending = await self.redis.execute_command("XPENDING", stream, GROUP)
        return await self.redis.xlen(stream), pending["pending"] if isinstance(pending, dict) else pending[0]

    async def lines(self, key: str) -> list[dict[str, str]]:
        """The entries of a stream of plain fields."""
        entries = await self.redis.execute_command("XRANGE", key, "-", "+")
        return [
            {values[at].decode(): values[at + 1].decode() for at in range(0, len(values), 2)} for _, values in entries
        ]

    async def snapshot(self) -> dict[str, Any]:
        """Everything there is, but for the lanes' own bookkeeping."""
        readers = {
            "hash": self.redis.hgetall,
            "string": self.redis.get,
            "list": lambda key: self.redis.lrange(key, 0, -1),
        }
        readers["stream"] = lambda key: self.redis.execute_command("XRANGE", key, "-", "+")
        keys = {key.decode() for key in await self.redis.keys()} - {self.keys.actions, self.keys.urgent}
        return {key: await readers[(await self.redis.type(key)).decode()](key) for key in keys}
