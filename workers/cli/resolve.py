"""`amibus resolve`: an operator's word on an action whose fate nobody knows."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click

from broker.codec import State
from broker.errors import ErrorCode
from broker.keys import Keys
from workers.cli.failures import Failure
from workers.cli.names import doubt_argument, server_argument
from workers.cli.options import client_options, client_settings
from workers.cli.output import Output
from workers.cli.running import run
from workers.config import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.record import Record

MAX_WHY: Final = 400
"""Longer reasons would be cut in `results`."""

CODES: Final = (ErrorCode.ORIGINATE_FAILED, ErrorCode.ASTERISK_ERROR, ErrorCode.NOT_EXECUTED)
"""What may have become of an action that failed."""

UNTRIMMED: Final = 2**62
"""The length of `results` is the worker's setting: nothing is trimmed here."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """What the operator says."""

    action_id: str
    state: State
    code: ErrorCode | None
    why: str


def _why(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    value = value.strip()
    if not value:
        raise click.BadParameter("say in one sentence how you know")
    if not value.isprintable():
        raise click.BadParameter("it is to be one line of plain text")
    if len(value) > MAX_WHY:
        raise click.BadParameter(f"it has {len(value)} characters: {MAX_WHY} at most, they are for one line of a log")
    return value


@click.command()
@server_argument()
@doubt_argument
@click.argument("state", metavar="done|failed", type=click.Choice([State.DONE.value, State.FAILED.value]))
@click.option("--why", required=True, metavar="TEXT", callback=_why, help="How you know, in one sentence. It is kept.")
@click.option(
    "--code", type=click.Choice([code.value for code in CODES]),
    help="Its error_code, if failed.  [default: originate-failed for an Originate, else asterisk-error]",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, help="The corrected result as one JSON object: the contract's message."
)
@client_options
def resolve(
    server: str, action_id: str, state: str, why: str, code: str | None, as_json: bool,
    redis: str | None, prefix: str | None, config: str | None,
) -> None:  # fmt: skip
    """Say what became of an action that is unknown.

    For when you know better than the bus: you looked at Asterisk, the CDR or the phone. The record becomes done or
    failed, with your reason; a second result, `revised`, goes to whoever listens and into `results`. Only an action
    that is unknown can be corrected, once, and only while its record lives (see `amibus unknown`). Nothing is sent to
    Asterisk. If the truth comes from the worker at the same moment, the first one counts, and you are told.

    It needs the rights of the worker's user on Redis, or of admin.

    \b
    Examples:
      amibus resolve pbx1 call-42 done --why "the CDR has it, answered at 09:14"
      amibus resolve pbx1 call-43 failed --why "the carrier says that it never got it"
      amibus resolve pbx1 queue-7 failed --code not-executed --why "queue show does not list the member"

    \b
    Exit codes:
      0  corrected
      1  not corrected: no such record, not unknown (any more), still under way; or Redis refused it or is away
      2  wrong use
    """
    if code is not None and state == State.DONE:
        raise click.UsageError("--code is for failed")
    word = Word(action_id=action_id, state=State(state), code=ErrorCode(code) if code else None, why=why)
    settings = replace(client_settings(redis, prefix, config), server=server, results_length=UNTRIMMED)
    from workers.logs import configure

    configure(level="error")
    run(resolve_by(settings, word, Output(as_json=as_json)))


async def resolve_by(settings: Settings, word: Word, output: Output) -> None:
    """Correct it by this word, and show what was done. Raises `Failure`, `BusUnavailable`."""
    from workers.cli.result_view import show_result
    from workers.redis_check import publish_command
    from workers.revision import Revision

    async with _connected(settings.redis) as redis:
        publish = publish_command(await redis.info("cluster"))
        ttl_ms = await redis.pttl(settings.keys.action(word.action_id))
        # Not to shorten its life: how long records are kept is a setting of the worker's.
        settings = replace(settings, record_s=max(settings.record_s, ttl_ms / 1000))
        revision = Revision(redis, settings, publish)
        before = await revision.record(word.action_id)
        if before is None:
            raise Failure(await _absence(redis, settings.keys, word.action_id))
        if before.state is not State.UNKNOWN:
            raise Failure(await _refusal(redis, settings.keys, before))
        seconds, microseconds = await redis.time()
        won = await revision.revise(word.action_id, _outcome(word, before), seconds + microseconds / 1e6)
        after = await revision.record(word.action_id)
        if not won:
            state = "gone: its record has expired" if after is None else after.state
            raise Failure(f"somebody was quicker: {word.action_id} is {state} by now, and nothing was changed")
    if after is not None and after.result is not None:
        show_result(output, after.result)
    if not output.as_json:
        was = f"{before.get('error_code')}: {before.get('error')}" if before.get("error_code") else "no reason given"
        output.line((f"It was unknown ({was}); its record, `results` and whoever listens have been told.", "dim"))


def _outcome(word: Word, record: "Record") -> Any:
    from workers.outcome import resolved_outcome

    code = word.code
    if word.state is State.FAILED and code is None:
        is_call = record.get("action").lower() == "originate"
        code = ErrorCode.ORIGINATE_FAILED if is_call else ErrorCode.ASTERISK_ERROR
    return resolved_outcome(word.state, code, word.why, record.result.response if record.result else None)


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncGenerator["Redis"]:
    """A connection to Redis. Raises `BusUnavailable`, `SettingsError`."""
    import redis as library

    from broker.link import Address, translated
    from workers.redis_client import connect

    address = Address(url)
    client = connect(url)
    try:
        yield client
    except library.exceptions.NoPermissionError as error:
        needed = "resolve needs the rights of the worker's user, or of admin"
        raise Failure(
            f"Redis at {address.masked} does not let user {address.user!r} do this: {needed} ({error})"
        ) from None
    except (library.RedisError, OSError) as error:
        raise translated(error, address, "the correction") from None
    finally:
        await client.aclose()


async def _absence(redis: "Redis", keys: Keys, action_id: str) -> str:
    """Why there is no record, as far as `results` tells."""
    lines: Any = await redis.xrevrange(keys.results)
    for _, fields in lines:
        if fields.get(b"action_id") == action_id.encode():
            state = fields.get(b"state", b"").decode()
            return f"{action_id} was {state}, and its record has expired: it cannot be corrected any more"
    return f"there is no record of {action_id} on {keys.server}: it waits on the queue, has expired, or never was"


async def _refusal(redis: "Redis", keys: Keys, record: "Record") -> str:
    """Why a record cannot be corrected."""
    if record.is_final:
        revised = record.result is not None and record.result.revised
        how = "corrected already" if revised else "settled for good"
        return f"{record.action_id} is {record.state}, {how}: only what is unknown can be corrected"
    worker: Any = await redis.hget(keys.worker, "worker")
    if worker is not None:
        who = f"the worker {worker.decode()} has it, and settles it"
    else:
        who = "no worker is alive, and the next one finds out what became of it"
    return f"{record.action_id} is still under way ({record.state}): {who}"
