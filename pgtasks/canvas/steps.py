"""Normalise the steps of a chain: flatten nested chains, drop empty parts, turn groups into chords."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kombu.utils.functional import maybe_list

from pgtasks.canvas.kinds import is_chain, is_chord, is_empty_group, is_group, unrolled
from pgtasks.canvas.signature import Signature, maybe_signature

#: Options of a chain that its first step does not inherit.
CHAIN_OPTIONS = (
    "task_id",
    "group_id",
    "group_index",
    "root_id",
    "parent_id",
    "link",
    "link_error",
    "chord",
)


def chain_steps(chain: Any, *, apart: bool) -> list[Any]:
    """Return the steps that a chain really has: flat, nothing empty, a group that is followed made a chord.

    A chain of empty groups keeps one: its result is an empty list. With `apart` chords are taken apart: of a body
    that is a chain, only the first step stays in it. That changes them, so the chain must be the caller's own.
    """
    app = chain.app
    steps = list(_flat(chain.tasks, app, apart))
    steps = [step for step in steps if not is_empty_group(step)] or steps[-1:]
    for position in range(len(steps) - 2, -1, -1):
        if is_group(steps[position]):
            header, body = steps[position : position + 2]
            steps[position : position + 2] = [Signature.TYPES["chord"](header, body=body, app=app)]
    return steps


def _flat(steps: Iterable[Any], app: Any, apart: bool) -> Iterator[Any]:
    for position, step in enumerate(steps):
        step = as_signature(step, app, f"Step {position} of the chain")
        while is_group(step) and unrolled(step) is not step:
            step = as_signature(unrolled(step), app, "The only member of the group")
            # Members of a group are not copied with it.
            step = step.clone() if apart else step
        if is_chain(step):
            yield from _flat(step.unchain_tasks() if apart else step.tasks, app, apart)
        elif apart and _can_be_taken_apart(step):
            yield from _flat(_taken_apart(step), app, apart)
        else:
            yield step


def _can_be_taken_apart(step: Any) -> bool:
    body = step.body if is_chord(step) else None
    return is_chain(body) and bool(body.tasks) and not is_group(body.tasks[0])


def _taken_apart(chord: Any) -> list[Any]:
    """Return the chord with only the first step of its body, then the others."""
    first, *rest = chord.body.unchain_tasks()
    inherited = {key: value for key, value in chord.body.options.items() if key not in CHAIN_OPTIONS}
    chord.body = first.clone(**inherited)
    return [chord, *rest]


def as_signature(part: Any, app: Any, where: str) -> Any:
    """Return the signature that a part of a canvas is, bound to an app; raises TypeError when it is none."""
    if not isinstance(part, dict):
        raise TypeError(f"{where} is {part!r}, not a signature. Use task.s(...) to make one of a task.")
    if "task" not in part:
        given = dict(part)  # as text a signature begins with its task
        raise TypeError(f"{where} is {given!r}, a dict that does not say which task. Use dict(task.s(...)) to make one.")
    is_bound = isinstance(part, Signature) and part._app is not None
    return maybe_signature(part, app=None if is_bound else app)


def callbacks_of(name: str, given: Any, app: Any) -> list[Any]:
    """The callbacks given to a call of a task, one or several."""
    return [as_signature(one, app, f"A callback of {name!r}") for one in _several(given)]


def in_groups(callbacks: Sequence[Any], app: Any) -> Sequence[Any]:
    """Several callbacks as Celery calls them: groups first, the others as one group, by which their task shows them."""
    if len(callbacks) < 2:
        return callbacks
    plain = [callback for callback in callbacks if not is_group(callback)]
    groups = [callback for callback in callbacks if is_group(callback)]
    return [*groups, Signature.TYPES["group"](plain, app=app)] if plain else groups


def errbacks_of(name: str, given: Any, app: Any) -> list[Any]:
    """The errbacks given to a call of a task, one or several; as in Celery, one may be just the name of a task."""
    return [
        Signature(one, app=app) if isinstance(one, str) else as_signature(one, app, f"An errback of {name!r}")
        for one in _several(given)
    ]


def body_of(given: Any, app: Any) -> Any:
    """The body of a chord; raises ValueError when there is none, TypeError when it is no signature."""
    if given is None:
        raise ValueError("The chord has no body. Give it one: chord(header, body) or chord(header)(body).")
    return as_signature(given, app, "The body of the chord")


def _several(given: Any) -> Iterable[Any]:
    # A task is not iterable, but its proxy says that it is.
    return (given,) if callable(given) else maybe_list(given) or ()


def place_last(step: Any, place: dict[str, Any]) -> None:
    """Give the last step of a chain what the whole chain has: its id, its callbacks, its place in a group."""
    if "link" in place:
        step.extend_list_option("link", place["link"])
    place_at(step, place)


def place_at(step: Any, place: dict[str, Any]) -> None:
    """Give a step its id and its place in a group, unless it has them. A chord's are its body's, a group has
    none."""
    while is_chord(step):
        step = step.body
    if step is None or is_group(step):
        return
    for key in ("task_id", "group_id"):
        if place.get(key):
            step.options.setdefault(key, place[key])
    if "group_index" in place:
        step.options["group_index"] = place["group_index"]


def shown(result: Any) -> Any:
    """The result of a group's member, as the task before the group keeps it: an id, or the tuple of a group."""
    if not hasattr(result, "results"):
        return result.id
    members = map(shown, result.results)
    return [[result.id, None], [member if isinstance(member, list) else [[member, None], None] for member in members]]


def first_of(result: Any) -> Any:
    """Walk back from a result to the first one of its line."""
    seen = set()
    while result.parent is not None:
        if result.id in seen:
            raise RuntimeError("Recursive result parents")
        seen.add(result.id)
        result = result.parent
    return result
