"""The walk over a canvas that finds its nodes, first to last.

Every part is planned as Celery would send it: the same arguments, options and ids reach the same tasks. Only
results that do not exist yet are stood in for, by `INPUT`, and what waits is said by `After` instead of being
sent later.

Celery's quirks are kept where its users can see them: the members of a group nested in a chord's header, or
in a group that is not the outermost, come in reverse; the results of a group within a header are a list
within the body's list. Kept out are its losses: a chain that begins with a group passes on its partial
arguments, and what follows a chord whose body is a group waits for all of it and runs once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from kombu.utils.functional import maybe_list

from pgtasks._state import get_current_worker_task
from pgtasks.canvas.calls import Passed, as_called, sends_plainly
from pgtasks.canvas.ids import fresh_id, fresh_key
from pgtasks.canvas.kinds import is_chord, is_empty_chain, is_group
from pgtasks.canvas.links import clone_with_members, with_callbacks
from pgtasks.canvas.nodes import Node, Role, Shape, shaped
from pgtasks.canvas.signature import Signature, maybe_signature, without_nones
from pgtasks.canvas.steps import (
    CHAIN_OPTIONS,
    as_signature,
    body_of,
    chain_steps,
    errbacks_of,
    first_of,
    in_groups,
    place_at,
    place_last,
    shown,
)
from pgtasks.message import Inputs, id_of, own_spelling
from pgtasks.utils.functional import _regen

#: The most edges that lead from one group straight to the next. When each of m members waits for each of n others there
#: are n * m; a task that collects the n results and hands them on makes it n + m.
MAX_CROSSING_EDGES = 10_000

#: Options of apply_async that say where a task stands in its canvas, or how it is sent. They are left out of the options
#: of a node: its other fields, the edges, or the plan as a whole say the same.
PLACE_OPTIONS = frozenset(
    {"task_id", "link", "link_error", "group_id", "root_id", "parent_id", "chord", "chain"}
    | {"producer", "publisher", "connection", "router", "result_cls", "add_to_parent", "as_called", "undo"}
)
#: Options of a chord that its body does not get.
_HEADER_OPTIONS = frozenset({"countdown", "eta", "parent_id", "task_id", "link", "link_error", "chain", "chord"})


class _Input:
    """A placeholder: the first argument of a task that gets the results of its predecessors, which do not exist yet."""

    def __repr__(self) -> str:
        return "<what the predecessors return>"


INPUT = _Input()


@dataclass(frozen=True, slots=True)
class After:
    """What the next part of the canvas waits for, and how it gets the results of that."""

    #: The tasks that must have succeeded.
    preds: tuple[UUID, ...] = ()
    #: What their results become: the first argument as one value or as a list of all, or nothing.
    inputs: Inputs = "none"
    #: How that list is nested, see `shaped`.
    shape: Shape | None = None
    role: Role = "first"
    #: For the body of a chord: the first task of the header, if that waits for something before the chord.
    entry: UUID | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments that the results become."""
        return () if self.inputs == "none" else (INPUT,)


FIRST = After()


@dataclass(slots=True)
class Part:
    """A part of the canvas that has been planned: a task, chain, group or chord."""

    #: The tasks with which it ends: their results are the part's result, as a list when it is `many`.
    ends: tuple[UUID, ...]
    #: The result object of the part as a whole, and that of what is sent first in it: of a chain, its first step.
    result: Any
    first: Any
    many: bool = False
    shape: Shape | None = None
    entry: UUID | None = None

    def then(self) -> After:
        """What comes next in a chain waits for this."""
        if self.many:
            return After(self.ends, "list", self.shape, "body", self.entry)
        return After(self.ends, "value", None, "step")


class Planner:
    """Adds the parts of one canvas. `nodes` are those found so far, in order."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.nodes: dict[UUID, Node] = {}
        self._order: list[UUID] = []
        self._tasks: dict[str, Any] = {}
        self._plain: dict[str, bool] = {}
        self._unsent: set[UUID] = set()
        #: What undoes which task.
        self.undos: dict[UUID, Any] = {}
        #: Ids that are no UUIDs, by the keys that stand for them.
        self.names: dict[UUID, str] = {}
        here = getattr(get_current_worker_task(), "request", None)
        self._parent = self._key_of(here.id) if here is not None and here.id else None  # a test may push one without
        self._root = self._key_of(here.root_id or here.id) if here is not None and self._parent else None

    def _key_of(self, task_id: str) -> UUID:
        key = id_of(task_id)
        if name := own_spelling(task_id, key):
            self.names[key] = name
        return key

    def add(
        self,
        sig: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        after: After,
        *,
        outermost: bool = False,
    ) -> Part | None:
        """Plan what `sig.apply_async(args, kwargs, **options)` would send; None when that is nothing.

        The signature must be the planner's own, for planning changes it; members of groups are copied here.
        """
        match sig.kind:
            case "chain":
                return self._add_chain(sig, args, kwargs, options, after, outermost)
            case "chord":
                return self._add_chord(sig, args, kwargs, options, after, outermost)
            case "group":
                return self._add_group(sig, args, kwargs, options, after, outermost)
        return self._add_task(sig, args, kwargs, options, after)

    def stand(self, node: Node) -> None:
        """Register a task written elsewhere as one that others can wait for."""
        self.nodes[node.id] = node
        self._order.append(node.id)

    # -- one task

    def _add_task(self, sig: Any, args: Any, kwargs: Any, options: dict[str, Any], after: After) -> Part:
        args, kwargs, options = sig._merge(args, kwargs, without_nones(options))
        undo = options.pop("undo", None)
        task = self._task_of(sig)
        made = None if options.get("task_id") else fresh_key()
        task_id = options["task_id"] if made is None else str(made)
        passed = self._as_called(task, sig, args, kwargs, {**options, "task_id": task_id}, after)
        if passed is None:
            return self._unsent_part(task, task_id)
        args, kwargs, options = passed
        takes_inputs = bool(args) and args[0] is INPUT
        errbacks = errbacks_of(sig.task, options.get("link_error"), self.app)
        if made is None or options["task_id"] != task_id:
            task_id = options["task_id"]
            made = self._key_of(task_id)
        key = self._key(made, task_id, sig)
        node = Node(
            id=key,
            task_id=task_id,
            name=sig.task,
            args=tuple(args[1:] if takes_inputs else args),
            kwargs=kwargs,
            options={option: value for option, value in options.items() if option not in PLACE_OPTIONS},
            embed={"errbacks": errbacks} if errbacks else {},
            inputs=after.inputs if takes_inputs else "none",
            waits_for=after.preds,
            shape=after.shape if takes_inputs else None,
            role=after.role,
            entry=after.entry,
            root=self._root_of(key, options, after),
            parent=self._parent_of(options, after),
            group_id=options.get("group_id"),
        )
        self.stand(node)
        if undo is not None:
            self.undos[node.id] = self._checked_undo(undo)
        self.link(node, options.get("link"))
        result = (self.app if task is None else task).AsyncResult(task_id)
        return Part((node.id,), result, result)

    def _checked_undo(self, undo: Any) -> Any:
        """Refuse early an undo that could not be sent later, because it does not accept what its task returned."""
        sig = maybe_signature(undo, app=self.app)
        if sig.options.get("link"):
            raise ValueError(f"The undo {sig!r} has callbacks. Let it send what follows itself, or make them undos.")
        task = self._task_of(sig)
        if task is not None and self._sends_plainly(sig.task, task):
            args, kwargs, options = sig._merge((INPUT,), {}, {})
            task._prepare_call(args, kwargs, None, options)
        return dict(sig)

    def _task_of(self, sig: Any) -> Any:
        """The task that is called, None when it is not registered here."""
        name = sig.task
        if sig._type is not None:
            return sig._type
        if name not in self._tasks:
            self._tasks[name] = self.app.tasks.get(name)
        return self._tasks[name]

    def _as_called(
        self, task: Any, sig: Any, args: Any, kwargs: Any, options: dict[str, Any], after: After
    ) -> Passed | None:
        """Complete a call as the task's own `apply_async` would; None when that decides not to send it."""
        if self._is_cut_off(sig, after):
            return None
        if after.preds and self.app.conf.task_inherit_parent_priority:
            inherited = self.nodes[after.preds[-1]].options.get("priority")
            options.update(without_nones({"priority": inherited}))
        is_plain = options.pop("as_called", False) or self._sends_plainly(sig.task, task)
        return as_called(self.app, task, sig.task, args, kwargs, options, is_plain=is_plain)

    def _sends_plainly(self, name: str, task: Any) -> bool:
        if name not in self._plain:
            self._plain[name] = sends_plainly(self.app, task)
        return self._plain[name]

    def _is_cut_off(self, sig: Any, after: After) -> bool:
        """Does it wait only for tasks that will not be sent?"""
        unsent = self._unsent.intersection(after.preds)
        if unsent and len(unsent) < len(set(after.preds)):
            raise ValueError(
                f"Task {sig.task!r} would wait for ever: the apply_async of a task it waits for has returned without"
                " sending it. Have it send, or raise an error."
            )
        return bool(unsent)

    def _unsent_part(self, task: Any, task_id: str) -> Part:
        """The part of a call that its own `apply_async` did not send; nothing is written for it."""
        key = id_of(task_id)
        self._unsent.add(key)
        result = (self.app if task is None else task).AsyncResult(task_id)
        return Part((key,), result, result)

    def _key(self, key: UUID, task_id: str, sig: Any) -> UUID:
        if key in self.nodes:
            raise ValueError(
                f"Two tasks of the canvas have the id {task_id!r}: {self.nodes[key].name!r}, {sig.task!r}. "
                "A signature that was frozen, or given a task_id, can be in it once: use copies made before."
            )
        return key

    def _root_of(self, key: UUID, options: dict[str, Any], after: After) -> UUID:
        if after.preds:
            return self.nodes[after.preds[0]].root
        given = options.get("root_id")
        return self._key_of(given) if given else self._root or key

    def _parent_of(self, options: dict[str, Any], after: After) -> UUID | None:
        if after.preds:
            return after.preds[-1]
        given = options.get("parent_id")
        return self._key_of(given) if given else self._parent

    def link(self, node: Node, links: Any) -> None:
        """Plan what is called with the result of a task."""
        after = After((node.id,), "value", None, "callback")
        callbacks = []
        for position, link in enumerate(maybe_list(links) or []):
            callback = as_signature(link, self.app, f"Callback {position} of {node.name!r}")
            callback = callback.clone()
            if callback.id and id_of(callback.id) in self.nodes:
                # Frozen, then linked to several tasks: each call but the first needs an id of its own.
                del callback.options["task_id"]
            callbacks.append(callback)
        for callback in in_groups(callbacks, self.app):
            self.add(callback, after.args, {}, {}, after)

    # -- chain

    def _add_chain(
        self, chain: Any, args: Any, kwargs: Any, options: dict[str, Any], after: After, outermost: bool
    ) -> Part | None:
        steps = chain_steps(chain, apart=True)
        if not steps:
            return None
        options = {**chain.options, **options}
        place = without_nones({key: options.pop(key, None) for key in CHAIN_OPTIONS})
        place_last(steps[-1], place)
        errbacks = maybe_list(place.get("link_error")) or []
        if errbacks:
            steps = [clone_with_members(step) for step in steps]
        for errback in errbacks:
            for step in steps:
                _link_error(step, errback)
        args = (*args, *chain.args) if args and not chain.immutable else chain.args
        options.update({key: place[key] for key in ("root_id", "parent_id") if key in place})
        outermost = outermost and len(steps) == 1 and not is_group(steps[0])
        line: list[Part] = []
        for step in steps:
            part = self.add(step, args, kwargs, options, after, outermost=outermost)
            if part is None:
                continue
            if line:
                first_of(part.result).parent = line[-1].result
            line.append(part)
            # Only the first step gets what the caller gave to the chain.
            after = part.then()
            args, kwargs, options = after.args, {}, {}
        return replace(line[-1], first=line[0].first)

    # -- group

    def _add_group(
        self,
        group: Any,
        args: Any,
        kwargs: Any,
        options: dict[str, Any],
        after: After,
        outermost: bool,
        *,
        is_header: bool = False,
    ) -> Part:
        _, _, options = group._merge(options=options)
        group_id = options.pop("task_id", None) or fresh_id()
        # As in Celery, nested members keep their order in a group that is sent by itself, or given by a generator.
        is_lazy = isinstance(group.tasks, _regen)
        members = list(group._unrolled_members() if outermost or is_lazy else group._flattened())
        begin = len(self.nodes)
        if len(after.preds) * len(members) > MAX_CROSSING_EDGES:
            after = self._collected(after)
        elif after.role == "body":
            after = replace(after, role="member")
        parts, results = [], []
        for index, member in enumerate(members):
            place = {"group_id": group_id, "group_index": index}
            since = len(self._order)
            part = self.add(member, args, kwargs, {**options, **place}, after)
            results.append(None if part is None else part.result)
            if part is None:
                continue
            parts.append(part)
            if after.preds and after.role in ("step", "callback"):
                self._begin_member(self._order[since:], after, (group_id, shown(part.result), index))
        if is_lazy and not (outermost or is_header):
            results = self._as_nested(group, iter(results))
        result = self.app.GroupResult(group_id, [each for each in results if each is not None])
        if outermost and len(parts) == 1 and parts[0].many:
            # As in Celery, a group of nothing but a chain that ends in a group shows itself as that group.
            result = parts[0].result
        ends, shape = _joined(parts)
        return Part(ends, result, result, many=True, shape=shape, entry=self._entry(begin))

    def _as_nested(self, group: Any, results: Iterator[Any]) -> list[Any]:
        """The results of a generator's members as Celery shows them: those of a nested group by themselves."""
        nested = [
            self.app.GroupResult(member.id or fresh_id(), self._as_nested(member, results))
            if is_group(member)
            else next(results)
            for member in group.tasks
            if not is_empty_chain(member)
        ]
        return [each for each in nested if each is not None]

    def _begin_member(self, keys: Sequence[UUID], after: After, begins: tuple[str, Any, int]) -> None:
        """Mark the tasks with which a member begins (`Node.begins`): the task before the group shows the group, not them."""
        for key in keys:
            node = self.nodes[key]
            if node.waits_for == after.preds:
                self.nodes[key] = replace(node, begins=begins)

    def _entry(self, begin: int) -> UUID | None:
        """The first task of a header, if it waits for what came before the chord."""
        first = self._order[begin] if begin < len(self._order) else None
        return first if first is not None and self.nodes[first].waits_for else None

    def _collected(self, after: After) -> After:
        """Insert a task that only collects, between many predecessors and many successors."""
        collector = Signature("celery.accumulate", kwargs={"index": 0}, app=self.app)
        return self._add_task(collector, after.args, {}, {}, after).then()

    # -- chord

    def _add_chord(
        self, chord: Any, args: Any, kwargs: Any, options: dict[str, Any], after: After, outermost: bool
    ) -> Part:
        kwargs, options = dict(kwargs), {**chord.options, **options}
        body = kwargs.pop("body", None) or chord.body
        body = body_of(body, self.app).clone()
        task_id, group_id = options.pop("task_id", None), chord.tasks.id if is_group(chord.tasks) else None
        group_id = group_id or fresh_id()
        body = self._chord_body(body, options, {"task_id": task_id, "group_id": group_id})
        header = self._add_group(
            chord.tasks if is_group(chord.tasks) else Signature.TYPES["group"](chord.tasks, app=chord._app),
            (*args, *chord.args) if args and not chord.immutable else chord.args,
            {**chord.kwargs.get("kwargs", {}), **kwargs},
            # The callbacks are the body's. Members may have their own, which these must not take the place of.
            {**{key: options[key] for key in options if key not in ("link", "link_error")}, "task_id": group_id},
            after,
            outermost=False,
            is_header=True,
        )
        waits = header.then()
        inputs = waits.args
        if not header.ends:
            # Nothing will end and release the body: it gets the empty list now and waits in place of the
            # header.
            waits, inputs = replace(after, inputs="none", shape=None), (shaped((), header.shape),)
        part = self.add(body, inputs, {}, {}, waits)
        if part is None:
            raise ValueError("The chord's body is an empty chain, so it has no result. Give it a step.")
        # Outermost, Celery hides the steps of a body that is a chain, so that the header is one step away.
        (part.result if outermost else first_of(part.result)).parent = header.result
        # Without a header nothing but the body is sent.
        return replace(part, first=header.result if header.ends else part.first)

    def _chord_body(self, body: Any, options: dict[str, Any], place: dict[str, Any]) -> Any:
        """Return the body with the options that Celery passes on to it: all but times and the parent."""
        passed_on = {key: options[key] for key in options if key not in _HEADER_OPTIONS}
        body = with_callbacks(body, options.get("link"), options.get("link_error"))
        body.options.update(passed_on)
        place_at(body, place)
        return body


def _link_error(step: Any, errback: Any) -> None:
    step.link_error(errback)
    if is_chord(step) and step.body is not None:
        step.body.link_error(errback)


def _joined(parts: Sequence[Part]) -> tuple[tuple[UUID, ...], Shape | None]:
    """Put the ends of parallel parts in a row; the shape is None when each part has one."""
    ends: list[UUID] = []
    shape: list[int | Shape] = []
    for part in parts:
        shape.append(_moved(part.shape, part.ends, by=len(ends)) if part.many else len(ends))
        ends.extend(part.ends)
    return tuple(ends), shape if any(part.many for part in parts) else None


def _moved(shape: Shape | None, ends: Sequence[UUID], by: int) -> Shape:
    if shape is None:
        return list(range(by, by + len(ends)))
    return [at + by if isinstance(at, int) else _moved(at, ends, by) for at in shape]
