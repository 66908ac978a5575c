"""A run's model on the Hub, with a card of its real numbers and the recipe that made it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orpo.jobs.merge_job import merge_once
from orpo.jobs.push.licence import licence_known_here
from orpo.jobs.push.plan import plan_push, pushable
from orpo.jobs.push.public import refuse_leaks
from orpo.jobs.push.types import PushFile, PushJob, PushPlan
from orpo.jobs.push.upload import Hub

__all__ = ["PushFile", "PushJob", "PushPlan", "plan_push", "pushable", "run_push"]


def run_push(job: PushJob, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Send it.

    Args:
        job: What is pushed, and where to.
        say: Told, line by line, what happens.

    Returns:
        The plan as a dict, with the commit's address as `url`.

    Raises:
        UserError: It cannot be pushed, or the Hub refuses it; nothing was sent.
        OrpoError: The Hub cannot be reached.
    """
    what = pushable(job)  # what is wrong here is said before anybody is asked
    hub = Hub(job)
    there = hub.check(what.manifest.run)
    if job.merge:
        merge_once(what.run.path, say=say)
    asked = not job.licence and not licence_known_here(what.run, what.base)
    plan = plan_push(what, hub.licence_of(what.base) if asked else None)
    for note in plan.notes:
        say(note)
    refuse_leaks(
        ((one.name, one.content) for one in plan.files if isinstance(one.content, bytes)),
        hub.token,
    )
    url = hub.push(plan, there)
    say(f"pushed: {url}")
    return {**plan.as_dict(), "url": url}
