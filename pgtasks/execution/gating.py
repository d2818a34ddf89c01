"""The gate before the code of a task with flow limits: may it begin now?

The process that is about to run the task asks, so that only real starts are counted. A task that may not begin is taken
from this worker and held in the database; its claim ends with the outcome "gone".
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from pgtasks.app.flows import place_of
from pgtasks.execution.ending import fail
from pgtasks.execution.site import Site
from pgtasks.message import Claim, Outcome
from pgtasks.store import flows
from pgtasks.store.sql import Query

__all__ = ("aenter", "enter")


def enter(site: Site, claim: Claim, task: Any, request: Mapping[str, Any]) -> Outcome | None:
    """Take the task's place in its flow; an outcome when it must not begin."""
    asking = _asking(site, claim, task, request)
    try:
        query = next(asking)
        while True:
            query = asking.send(site.app.database.run(query))
    except StopIteration as end:
        outcome: Outcome | None = end.value
        return outcome


async def aenter(site: Site, claim: Claim, task: Any, request: Mapping[str, Any]) -> Outcome | None:
    """`enter` for coroutines."""
    asking = _asking(site, claim, task, request)
    try:
        query = next(asking)
        while True:
            query = asking.send(await site.app.adatabase.run(query))
    except StopIteration as end:
        outcome: Outcome | None = end.value
        return outcome


def _asking(
    site: Site, claim: Claim, task: Any, request: Mapping[str, Any]
) -> Generator[Query[Any], Any, Outcome | None]:
    try:
        flow, key = place_of(task, request["args"], request["kwargs"], request.get("flow_key"))
    except Exception as error:
        # Sent by name, by somebody who did not know what its key is made of.
        return fail(site, claim, task, request, error)
    named = claim.id, site.worker, claim.delivery, flow, key
    said = yield flows.begin(*named)
    if said == "ask":
        said = yield flows.ask(*named)
    if said == "unknown":
        yield flows.declare(flow, task.flow.limits())
        said = yield flows.ask(*named)
    return None if said == "go" else Outcome(id=claim.id, delivery=claim.delivery, kind="gone")
