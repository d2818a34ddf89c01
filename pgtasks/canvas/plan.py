"""How a canvas becomes durable: `plan` turns it into tasks and the edges between them, all known before anything runs.

    chain(a, b)                    a ── b                     b gets what a returned
    chain(a, group(b, c))          a ─┬ b                     both get it
                                      └ c
    chord([a, b], c)               a ─┬ c                     c gets [a's, b's], in the order of the header
                                   b ─┘
    a.link(b)                      a ── b                     as a chain, but b is no part of the result

A node carries all that its message needs: its id, its arguments, what it waits for and how the results of its
predecessors become its first argument. Planning changes nothing: the canvas is copied, nothing is sent. What is sent
where, and with which options, follows Celery: each part is planned as Celery would send it, except that results that
do not exist yet are stood in for by `INPUT`.

Celery's quirks kept here: members of a group nested in a chord's header run in reverse order, and the result of a
group within a header is a list within the body's list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from kombu.utils.functional import maybe_list

from pgtasks._state import get_current_worker_task
from pgtasks.canvas.links import with_callbacks
from pgtasks.canvas.signature import (
    Signature,
    fresh_id,
    is_chain,
    is_chord,
    is_empty_chain,
    is_empty_group,
    is_group,
    maybe_signature,
    one_slot,
    unrolled,
    without_nones,
)
from pgtasks.message import Inputs, id_of

#: How a flat list of results becomes the nested one that a chord's body gets: positions, and lists of them.
Shape: TypeAlias = "tuple[int | Shape, ...]"

#: Why a task waits, which decides what becomes of it when a predecessor fails.
#:   first     it does not wait
#:   step      the next in a chain: fails with the same error
#:   body      a chord's body: fails with ChordError, and its errbacks are called
#:   member    of a chord's body that is a group: fails with the same error, and its errbacks are called
#:   callback  linked to a task: never happens
Role = Literal["first", "step", "body", "member", "callback"]

#: More edges than this between one group and the next, and a task that collects stands between them: 2n for n² edges.
MAX_CROSSING_EDGES = 10_000


#: Options that name a transaction of the caller's: they are for the whole canvas, not for its tasks.
TRANSACTION_OPTIONS = ("conn", "using")


class Edge(NamedTuple):
    """`succ` waits for `pred`, whose result is at `position` among its inputs."""

    pred: UUID
    succ: UUID
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One task of a canvas.

    `args` lack the first argument, which is made of the results of `waits_for` when `inputs` is not "none": the one
    value, or their list, nested as `shape` says. `options` are those of `apply_async`, less what has a field here.
    `embed` is the third part of the message body: only `errbacks`, for callbacks are nodes.
    """

    id: UUID
    task_id: str
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    embed: dict[str, Any] = field(default_factory=dict)
    inputs: Inputs = "none"
    waits_for: tuple[UUID, ...] = ()
    shape: Shape | None = None
    role: Role = "first"
    root: UUID
    parent: UUID | None = None
    group_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A canvas, ready to be written: predecessors come before their successors.

    `result` is what the caller gets, `trail` what the calling task remembers as its child. `ends` are the tasks whose
    results are the canvas' own, nested as `shape` says.
    """

    nodes: tuple[Node, ...]
    result: Any
    trail: Any
    ends: tuple[UUID, ...]
    shape: Shape | None = None

    @property
    def edges(self) -> Iterator[Edge]:
        """All dependencies, successor by successor, in the order of their positions."""
        for node in self.nodes:
            for position, pred in enumerate(node.waits_for):
                yield Edge(pred, node.id, position)


def plan(sig: Any, args: Any = None, kwargs: Any = None, options: dict[str, Any] | None = None) -> Plan:
    """Say what must be written to run this signature, of any kind, with these arguments and options.

    Raises TypeError for a part that is no signature, a chord without a body or a callback for a group as a whole,
    and ValueError for two tasks with one id and for a canvas that contains itself.
    """
    planner = _Planner(sig.app)
    with one_slot():
        try:
            part = planner.add(sig, tuple(args or ()), dict(kwargs or {}), dict(options or {}), FIRST, outermost=True)
        except RecursionError as exc:
            raise ValueError(
                f"The canvas {sig.task!r} is nested too deeply to be sent, or contains itself. "
                "Does a task link to itself, or to one that links back?"
            ) from exc
    if part is None:
        return Plan(nodes=(), result=None, trail=None, ends=())
    return Plan(
        nodes=tuple(planner.nodes.values()),
        result=part.result,
        trail=part.first,
        ends=part.ends,
        shape=part.shape,
    )


def send(
    sig: Any, args: Any, kwargs: Any, options: dict[str, Any], *, add_to_parent: bool | None = True
) -> Any:
    """Plan a canvas, write it, remember it as a child of the task that runs here; returns its result object."""
    app, options = sig.app, dict(options)
    transaction = {key: options.pop(key) for key in TRANSACTION_OPTIONS if key in options}
    planned = plan(sig, args, kwargs, options)
    if planned.nodes:
        app.enqueue_plan(planned, **transaction)
    parent = get_current_worker_task()
    if parent is not None and add_to_parent and planned.trail is not None:
        parent.add_trail(planned.trail)
    return planned.result


def shaped(values: Sequence[Any], shape: Shape | None) -> list[Any]:
    """Arrange the results of predecessors as a chord's body expects them."""
    if shape is None:
        return list(values)
    return [values[at] if isinstance(at, int) else shaped(values, at) for at in shape]


def first_of(result: Any) -> Any:
    """Walk back from a result to the first one of its line."""
    seen = set()
    while result.parent is not None:
        if result.id in seen:
            raise RuntimeError("Recursive result parents")
        seen.add(result.id)
        result = result.parent
    return result


def chain_steps(chain: Any, *, copy: bool) -> list[Any]:
    """Return the steps that a chain really has: flat, nothing empty, groups that something follows made chords.

    A chain of empty groups keeps one: its result is an empty list. With `copy` the chain's own steps stay untouched.
    """
    app = chain.app
    steps = list(_flat(chain.tasks, app, copy))
    full = [step for step in steps if not is_empty_group(step)]
    steps = full or steps[-1:]
    for position in range(len(steps) - 2, -1, -1):
        if is_group(steps[position]):
            header, body = steps[position : position + 2]
            steps[position : position + 2] = [Signature.TYPES["chord"](header, body=body, app=app)]
    return steps


def _flat(steps: Sequence[Any], app: Any, copy: bool) -> Iterator[Any]:
    for position, step in enumerate(steps):
        step = as_signature(step, app, f"Step {position} of the chain")
        step = step.clone() if copy else step
        while is_group(step) and unrolled(step) is not step:
            step = as_signature(unrolled(step), app, "The only member of the group")
        if is_chain(step):
            yield from _flat(step.unchain_tasks() if copy else step.tasks, app, copy)
        else:
            yield step


def as_signature(part: Any, app: Any, where: str) -> Any:
    """Return the signature that a part of a canvas is; raises TypeError when it is none."""
    if not isinstance(part, dict):
        raise TypeError(f"{where} is {part!r}, not a signature. Use task.s(...) to make one of a task.")
    return part if isinstance(part, Signature) else maybe_signature(part, app=app)


class _Input:
    """Stands, as a first argument, for the results of the predecessors."""

    def __repr__(self) -> str:
        return "<what the predecessors return>"


INPUT = _Input()


@dataclass(frozen=True, slots=True)
class _After:
    """What a part of the canvas waits for."""

    preds: tuple[UUID, ...] = ()
    inputs: Inputs = "none"
    shape: Shape | None = None
    role: Role = "first"

    @property
    def args(self) -> tuple[Any, ...]:
        return () if self.inputs == "none" else (INPUT,)


FIRST = _After()


@dataclass(slots=True)
class _Part:
    """A planned part of the canvas: the tasks whose results are its own (`many`: as a list), and result objects.

    `result` is that of the part, `first` that of what is sent first, `header` that of the header when it is a chord.
    """

    ends: tuple[UUID, ...]
    result: Any
    first: Any
    many: bool = False
    shape: Shape | None = None
    header: Any = None

    def then(self) -> _After:
        """What the next step of a chain waits for."""
        if self.many:
            return _After(self.ends, "list", self.shape, "body")
        return _After(self.ends, "value", None, "step")


#: Options of apply_async that say where a task stands in its canvas. Nodes and edges say it here.
_PLACE_OPTIONS = frozenset(
    {"task_id", "link", "link_error", "group_id", "root_id", "parent_id", "chord", "chain", "reply_to"}
    | {"producer", "publisher", "router", "result_cls", "add_to_parent"}
)
#: Options of a chain that its first step does not inherit.
_CHAIN_OPTIONS = ("group_id", "group_index", "chord", "task_id", "link", "link_error", "root_id", "parent_id")


class _Planner:
    """Adds the parts of one canvas, front to back."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.nodes: dict[UUID, Node] = {}
        caller = get_current_worker_task()
        self._root = None if caller is None else id_of(caller.request.root_id or caller.request.id)
        self._parent = None if caller is None else id_of(caller.request.id)

    def add(
        self, sig: Any, args: Any, kwargs: Any, options: dict[str, Any], after: _After, *, outermost: bool = False
    ) -> _Part | None:
        """Plan what `sig.apply_async(args, kwargs, **options)` would send; None when that is nothing."""
        kind = sig.kind
        if kind == "chain":
            return self._add_chain(sig, args, kwargs, options, after, outermost)
        if kind == "chord":
            return self._add_chord(sig, args, kwargs, options, after, outermost)
        if kind == "group":
            return self._add_group(sig, args, kwargs, options, after, outermost)
        if kind == "chunks":
            return self._add_group(sig.group(), args, kwargs, options, after, outermost)
        return self._add_task(sig, args, kwargs, options, after)

    # -- one task

    def _add_task(self, sig: Any, args: Any, kwargs: Any, options: dict[str, Any], after: _After) -> _Part:
        args, kwargs, options = sig._merge(args, kwargs, without_nones(options))
        takes_inputs = bool(args) and args[0] is INPUT
        task_id = options.get("task_id") or fresh_id()
        node = Node(
            id=self._key(task_id, sig),
            task_id=task_id,
            name=sig.task,
            args=tuple(args[1:] if takes_inputs else args),
            kwargs=kwargs,
            options=self._task_options(sig, options, after),
            embed=_embed(options),
            inputs=after.inputs if takes_inputs else "none",
            waits_for=after.preds,
            shape=after.shape if takes_inputs else None,
            role=after.role,
            root=self._root_of(task_id, options, after),
            parent=self._parent_of(options, after),
            group_id=options.get("group_id"),
        )
        self.nodes[node.id] = node
        self._add_callbacks(node, options.get("link"))
        result = sig.AsyncResult(task_id)
        return _Part(ends=(node.id,), result=result, first=result)

    def _key(self, task_id: str, sig: Any) -> UUID:
        key = id_of(task_id)
        if key in self.nodes:
            raise ValueError(
                f"Two tasks of the canvas have the id {task_id!r}: {self.nodes[key].name!r} and {sig.task!r}. "
                "A signature that was frozen, or has a task_id, can be in it once; clone it before it is frozen."
            )
        return key

    def _task_options(self, sig: Any, options: dict[str, Any], after: _After) -> dict[str, Any]:
        own = {key: value for key, value in options.items() if key not in _PLACE_OPTIONS}
        if sig.route_name is not None:
            own.setdefault("route_name", sig.route_name)
        if after.preds and self.app.conf.task_inherit_parent_priority:
            inherited = self.nodes[after.preds[-1]].options.get("priority")
            if inherited is not None:
                own["priority"] = inherited
        return own

    def _root_of(self, task_id: str, options: dict[str, Any], after: _After) -> UUID:
        if after.preds:
            return self.nodes[after.preds[0]].root
        given = options.get("root_id")
        return id_of(given) if given else self._root or id_of(task_id)

    def _parent_of(self, options: dict[str, Any], after: _After) -> UUID | None:
        if after.preds:
            return after.preds[-1]
        given = options.get("parent_id")
        return id_of(given) if given else self._parent

    def _add_callbacks(self, node: Node, links: Any) -> None:
        after = _After((node.id,), "value", None, "callback")
        for position, link in enumerate(maybe_list(links) or []):
            callback = as_signature(link, self.app, f"Callback {position} of {node.name!r}")
            if callback.id and id_of(callback.id) in self.nodes:
                # Linked to several tasks after it was frozen: every call needs an id of its own.
                callback = callback.clone()
                del callback.options["task_id"]
            self.add(callback, after.args, {}, {}, after)

    # -- chain

    def _add_chain(
        self, chain: Any, args: Any, kwargs: Any, options: dict[str, Any], after: _After, outermost: bool
    ) -> _Part | None:
        steps = chain_steps(chain, copy=True)
        if not steps:
            return None
        options = {**chain.options, **options}
        place = {key: options.pop(key, None) for key in _CHAIN_OPTIONS}
        self._place_last(steps[-1], place)
        for errback in maybe_list(place["link_error"]) or []:
            for step in steps:
                _link_error(step, errback)
        args = (*args, *chain.args) if args and not chain.immutable else chain.args
        roots = without_nones({"root_id": place["root_id"], "parent_id": place["parent_id"]})
        outermost = outermost and len(steps) == 1 and not _is_unrolled(steps[0])
        line: list[_Part] = []
        for step in steps:
            # Only the first step gets what the caller gave to the chain.
            part = self.add(step, args, kwargs, {**options, **roots}, after, outermost=outermost)
            if part is None:
                continue
            if line:
                first_of(part.result).parent = line[-1].result
            line.append(part)
            after = part.then() if part.ends or part.many else after
            args, kwargs, options, roots = after.args, {}, {}, {}
        last = line[-1]
        return _Part(last.ends, last.result, line[0].first, last.many, last.shape, last.header)

    def _place_last(self, step: Any, place: dict[str, Any]) -> None:
        """Give the last step of a chain what the whole chain has: its id, its callbacks, its place in a group."""
        if place["link"]:
            step.extend_list_option("link", place["link"])
        target = step
        while is_chord(target):
            target = target.body
        if place["task_id"] and not is_group(target):
            target.options.setdefault("task_id", place["task_id"])
        if place["group_id"] and not is_group(target):
            target.options.setdefault("group_id", place["group_id"])
        if place["group_index"] is not None and not is_group(target):
            target.options["group_index"] = place["group_index"]

    # -- group

    def _add_group(
        self, group: Any, args: Any, kwargs: Any, options: dict[str, Any], after: _After, outermost: bool
    ) -> _Part:
        _, _, options = group._merge(options=options)
        group_id = options.pop("task_id", None) or fresh_id()
        members = list(group._unrolled_members() if outermost else group._flattened())
        if len(after.preds) * len(members) > MAX_CROSSING_EDGES:
            after = self._collected(after)
            args = after.args if args and args[0] is INPUT else args
        if after.role == "body":
            after = _After(after.preds, after.inputs, after.shape, "member")
        options = {**options, "group_id": group_id}
        parts = []
        for index, member in enumerate(members):
            part = self.add(member, args, kwargs, {**options, "group_index": index}, after)
            if part is not None:
                parts.append(part)
        result = self.app.GroupResult(group_id, [part.result for part in parts])
        if outermost and len(parts) == 1 and parts[0].many:
            # A group of one chain that ends in a group, which Celery makes appear as that group.
            result = parts[0].result
        ends, shape = _joined(parts)
        return _Part(ends, result, result, many=True, shape=shape)

    def _collected(self, after: _After) -> _After:
        """Put a task that only collects between many predecessors and many successors."""
        part = self._add_task(Signature("celery.accumulate", kwargs={"index": 0}), after.args, {}, {}, after)
        return part.then()

    # -- chord

    def _add_chord(
        self, chord: Any, args: Any, kwargs: Any, options: dict[str, Any], after: _After, outermost: bool
    ) -> _Part:
        kwargs, options = dict(kwargs), {**chord.options, **options}
        body = kwargs.pop("body", None) or chord.body
        if body is None:
            raise TypeError("The chord has no body. Give it one: chord(header, body), or chord(header)(body).")
        task_id = options.pop("task_id", None)
        group_id = fresh_id()
        body = self._chord_body(body, chord, options, task_id, group_id)
        for key in ("link", "link_error", "chain", "chord"):
            options.pop(key, None)
        header_sig = chord.tasks if is_group(chord.tasks) else Signature.TYPES["group"](chord.tasks, app=chord._app)
        header = self._add_group(
            header_sig,
            (*args, *chord.args) if args and not chord.immutable else chord.args,
            {**chord.kwargs.get("kwargs", {}), **kwargs},
            {**options, "task_id": header_sig.id or group_id},
            after,
            outermost=False,
        )
        waits, inputs = header.then(), (INPUT,)
        if not header.ends:
            # Nothing will end and release the body: it gets the list now, and waits for what the header would.
            waits = _After(after.preds, "none", None, after.role)
            inputs = (shaped((), header.shape),)
        part = self.add(body, inputs, {}, {}, waits)
        if part is None:
            raise ValueError("The chord's body is an empty chain, so it has no result. Give it a step.")
        if outermost:
            part.result.parent = header.result
        else:
            first_of(part.result).parent = header.result
        return _Part(part.ends, part.result, header.result, part.many, part.shape, header.result)

    def _chord_body(self, body: Any, chord: Any, options: dict[str, Any], task_id: Any, group_id: str) -> Any:
        """Return a copy of the body with what Celery passes on to it: all but times and the parent."""
        passed_on = {key: options[key] for key in options if key not in _HEADER_OPTIONS}
        body = maybe_signature(body, app=self.app, clone=True)
        body = with_callbacks(body, options.get("link"), options.get("link_error"))
        body.options.update(passed_on)
        target = body
        while is_chord(target):
            target = target.body
        if not is_group(target):
            if task_id:
                target.options.setdefault("task_id", task_id)
            target.options.setdefault("group_id", group_id)
        return body


#: Options of a chord that its body does not get.
_HEADER_OPTIONS = frozenset({"countdown", "eta", "parent_id", "task_id", "link", "link_error", "chain", "chord"})


def _link_error(step: Any, errback: Any) -> None:
    step.link_error(errback)
    if is_chord(step) and step.body is not None:
        step.body.link_error(errback)


def _is_unrolled(step: Any) -> bool:
    """Does Celery take this chord apart in a chain: the steps of its body's chain become the chain's?"""
    body = step.body if is_chord(step) else None
    return is_chain(body) and bool(body.tasks) and not is_group(body.tasks[0])


def _embed(options: dict[str, Any]) -> dict[str, Any]:
    errbacks = maybe_list(options.get("link_error"))
    return {"errbacks": list(errbacks)} if errbacks else {}


def _joined(parts: Sequence[_Part]) -> tuple[tuple[UUID, ...], Shape | None]:
    """Put the ends of parallel parts in a row; the shape is None when each part has one."""
    ends: list[UUID] = []
    shape: list[int | Shape] = []
    for part in parts:
        if part.many:
            shape.append(_moved(part.shape, len(part.ends), by=len(ends)))
        else:
            shape.append(len(ends))
        ends.extend(part.ends)
    return tuple(ends), tuple(shape) if any(part.many for part in parts) else None


def _moved(shape: Shape | None, size: int, by: int) -> Shape:
    if shape is None:
        return tuple(range(by, by + size))
    return tuple(at + by if isinstance(at, int) else _moved(at, size, by) for at in shape)
