"""The truth about an action that was settled as `unknown`: a late answer, a call found alive, an operator's word."""

from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from broker.codec import BadMessage, State
from broker.record import Record, decode_record
from broker.scripts import Script
from workers.config import Settings
from workers.logs import trace_of
from workers.outcome import Outcome
from workers.records import Records

log = structlog.get_logger()


class Revision:
    """Corrects `unknown`, the one final state that may be corrected."""

    def __init__(self, redis: "Redis", settings: Settings, publish: str) -> None:
        self._redis = redis
        self._settings = settings
        self._publish = publish
        self._records = Records(settings)
        self._settle = Script("settle", settings.keys)

    async def revise(self, action_id: str, outcome: Outcome, at: float) -> bool:
        """Make it `done` or `failed`, and say so on its channel and in `results`. False: it is not `unknown`."""
        try:
            record = await self.record(action_id)
            if record is None or record.state is not State.UNKNOWN:
                return False
            item = self._records.revision(record, outcome, at)
        except (BadMessage, TypeError) as error:  # its result may hold what cannot be told again
            log.warning("the truth came late, and its record cannot be read", action_id=action_id, why=str(error))
            return False
        settings = self._settings
        verdicts = await self._settle(
            self._redis, 0, self._publish, settings.results_length, settings.dead_length, [item]
        )
        if verdicts[0] != b"revised":
            return False
        log.info(
            "revised", action_id=action_id, action=record.get("action"), state=outcome.state, why=outcome.message,
            **trace_of(record.get("traceparent")),
        )  # fmt: skip
        return True

    async def record(self, action_id: str) -> Record | None:
        """The record of an action, None if there is none. Raises `BadMessage` for one of another version, or what
        is no record."""
        try:
            fields: Any = await self._redis.hgetall(self._settings.keys.action(action_id))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            raise BadMessage(f"something of another type has the place of the record of {action_id}") from error
        flat = [part for pair in fields.items() for part in pair]
        return decode_record(self._settings.server, action_id, flat)
