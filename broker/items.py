"""The items of a very large result, which are kept apart from it."""

from dataclasses import replace

from broker.ami import Headers
from broker.codec import Result, unpack_items
from broker.errors import ItemsGone
from broker.keys import Keys
from broker.pipeline import Pipeline


async def with_items(result: Result, keys: Keys, pipeline: Pipeline) -> Result:
    """The result with all its `events`, read chunk by chunk where they are kept apart.

    Raises `ItemsGone`, `BusUnavailable`.
    """
    if not result.chunks:
        return result
    events: list[Headers] = []
    for number in range(result.chunks):
        chunks = await pipeline.execute("LRANGE", keys.items(result.action_id), number, number)
        if chunks:
            events += unpack_items(chunks[0], result.items_latin1)
    if len(events) != result.items:
        raise ItemsGone(f"the {result.items} items of {result.action_id} are not kept any more: it was read too late")
    return replace(result, events=events)
