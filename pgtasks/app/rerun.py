"""Doing parts of a canvas again: what failed in it (`redrive`), or a copy from one of its tasks on (`fork`).

    give ── T ── end         T was replaced by chain(a, b): it is b now, and knows the call that it was before
       └ a ─┘

From `a` on, or when `a` has failed, T is run again as `b`. From `give` or T itself on, it is run as it was first called, with
what `give` returns this time; it then replaces itself anew, so that `a` is left out. Likewise a task that was retried with
what its predecessors had returned among its arguments, and what a task has added to its chord, which it will add again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.app import forms
from pgtasks.app.canvases import Ask
from pgtasks.app.graph import CanvasGraph, known
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.message import Message, id_of, new_id
from pgtasks.store import graphs, tasks

__all__ = ("fork", "redrive")


class _Edge(NamedTuple):
    succ: UUID
    pred: UUID
    position: int


class _Part(NamedTuple):
    """The tasks of a canvas that run again; those of them that do so as they were first called, or as they were called before
    retries; and what is left out, since these will make it anew.
    """

    again: set[UUID]
    first: set[UUID]
    sent: set[UUID]
    left_out: set[UUID]


def redrive(app: Any, task_id: str) -> int:
    """Run again what failed in the canvas of a task; gives how many tasks, 0 when nothing has failed.

    What succeeded keeps its result, but for what ran although tasks before it had failed (`trigger="all_done"`), and
    what follows that. Of a canvas that was undone, only undos run again. Raises `ImproperlyConfigured` while tasks of
    the canvas have not ended, and where something failed that was undone.
    """
    graph = known(app, task_id)
    unfinished = [node for node in graph.nodes if node.result_state is None or node.is_claimed]
    if unfinished:
        raise ImproperlyConfigured(
            f"{len(unfinished)} of {len(graph.nodes)} tasks of this canvas have not ended, such as"
            f" {unfinished[0].name}[{unfinished[0].public_id}]. Wait for them, or revoke them, and redrive then."
        )
    own = graph.same_fork(id_of(task_id))
    failed = {node.id for node in graph.nodes if node.id in own and node.result_state != "SUCCESS"}
    if any(undos for sender, undos in graph.undos.items() if sender in own):
        undos = failed & graph.undoing
        if failed and not undos:
            raise ImproperlyConfigured(f"The canvas of task {task_id} has failed and was undone. Send it again.")
        part = _Part(undos, set(), set(), set())
    else:
        part = _to_redrive(graph, own, failed)
    return _redriven(app, graph, part, failed) if part.again else 0


def _to_redrive(graph: CanvasGraph, own: set[UUID], failed: set[UUID]) -> _Part:
    """The failed tasks, and those that have run with what these left."""
    again, first = set(failed), set[UUID]()
    while True:
        first = {each for each in own if _was_first_given(graph, each, again)}
        sent = {each for each in again - first if graph.marks[each].as_sent and _is_given(graph, each, again)}
        pristine = {
            each for each in again - first if not (graph.marks[each].as_sent or graph.marks[each].as_first_sent)
        }
        left_out = {each for each in own if _is_left_out(graph, each, first, sent | pristine)}
        grown = (again | first | {each for each in own if _is_given(graph, each, again)}) - left_out
        if grown == again:
            return _Part(again, first - left_out, sent, left_out)
        again = grown


def _was_first_given(graph: CanvasGraph, task_id: UUID, again: set[UUID]) -> bool:
    """Did a task, before a canvas replaced it, get what one of these left, and would it wait for all of them?"""
    marks = graph.marks[task_id]
    first = marks.as_first_sent
    return first is not None and first.get("trigger") != "any" and any(each.pred in again for each in marks.former)


def _is_given(graph: CanvasGraph, task_id: UUID, again: set[UUID]) -> bool:
    """Does a task get what one of these leaves, or fail with it?"""
    node, marks = graph.by_id[task_id], graph.marks[task_id]
    trigger = marks.as_sent.get("trigger") if marks.as_sent else node.trigger
    is_over = node.result_state == "SUCCESS" and trigger == "any"
    return not is_over and not marks.is_entry and any(pred in again for pred in node.preds)


def _is_left_out(graph: CanvasGraph, task_id: UUID, first: set[UUID], from_scratch: set[UUID]) -> bool:
    """Did a task come with another one that makes its like anew?"""
    for each in (task_id, *graph.makers(task_id)):
        marks = graph.marks[each]
        if {marks.made_by, marks.added_by} & first or marks.added_by in from_scratch:
            return True
    return False


def _redriven(app: Any, graph: CanvasGraph, part: _Part, failed: set[UUID]) -> int:
    def redriven(ask: Ask) -> int:
        ask(tasks.hold(graph.by_id))
        if part.first or part.sent or part.left_out:
            earlier = [_earlier(graph, each, part) for each in ask(graphs.messages(part.first | part.sent))]
            edges = [edge for each in part.first for edge in _former_edges(graph, each)]
            ask(graphs.restore(earlier, part.first, edges, part.left_out))
        count: int = ask(graphs.redrive(graph.by_id, part.again & failed, part.again - failed))
        if not count:
            raise _OvertakenError
        return count

    _check_inputs(graph, part.again, _edges_of(graph, part), have_succeeded=False)
    try:
        redriven_now: int = app.database.transact(redriven)
    except _OvertakenError:
        return 0
    return redriven_now


class _OvertakenError(Exception):
    """Somebody else was faster: nothing is to be changed."""


def fork(app: Any, task_id: str, from_node: str | None = None) -> dict[str, str]:
    """Run part of a canvas again: a task and everything that waits for it, as copies under new ids.

    What they wait for outside of that part must have succeeded and is not run again. Gives the new id of each copied
    task by its old one; the originals stay as they are.
    """
    graph = known(app, task_id)
    start = id_of(from_node or task_id)
    if start not in graph.by_id:
        raise ImproperlyConfigured(
            f"Task {from_node} is not part of the canvas of {task_id}; `pgtasks graph` lists its tasks."
        )
    if graph.is_undone(start) or start in graph.undoing:
        raise ImproperlyConfigured(
            f"The canvas of task {task_id} was undone: what a fork would begin with is gone. Send it again."
        )
    part = _to_fork(graph, start)
    # A fork undoes what it has done itself.
    edges = [each for each in _edges_of(graph, part) if each.pred in part.again or each.succ not in graph.undoing]
    _check_inputs(graph, part.again, edges, have_succeeded=True)
    new_ids = {old: new_id(old) for old in part.again}
    copy = partial(_copy, new_ids=new_ids, fork=str(new_ids[start]))
    renamed = [_Edge(new_ids[edge.succ], new_ids.get(edge.pred, edge.pred), edge.position) for edge in edges]
    inputs = {edge.pred for edge in edges} - part.again

    def forked(ask: Ask) -> bool:
        copies = [copy(_earlier(graph, message, part)) for message in ask(graphs.messages(part.again))]
        is_whole = len(copies) == len(new_ids) and ask(graphs.lock_inputs(inputs)) == inputs
        if is_whole:
            ask(tasks.enqueue(copies, renamed))
        return is_whole

    if not app.database.transact(forked):
        raise ImproperlyConfigured(
            f"Tasks of the canvas of {task_id} were sent or redriven at this moment. Fork it when it has ended."
        )
    return {graph.by_id[old].public_id: str(new) for old, new in new_ids.items()}


def _to_fork(graph: CanvasGraph, start: UUID) -> _Part:
    own, makers = graph.same_fork(start), graph.makers(start)
    copied = {start, *graph.successors(start)} & own
    first = {each for each in copied if graph.marks[each].as_first_sent and each not in makers}
    from_scratch = {each for each in copied - first if graph.marks[each].as_sent or not graph.marks[each].as_first_sent}
    left_out = {each for each in own if _is_left_out(graph, each, first, from_scratch)}
    for each in copied - left_out - {start}:
        if graph.marks[each].is_entry:
            maker = graph.marks[each].made_by
            raise ImproperlyConfigured(
                f"Task {start} is part of what task {maker} was replaced by before it was replaced once more. Fork from"
                f" task {maker}, which replaces itself anew."
            )
    return _Part(copied - left_out, first - left_out, copied - first, left_out)


def _edges_of(graph: CanvasGraph, part: _Part) -> list[_Edge]:
    """What the tasks that run again will have waited for."""
    edges = [edge for each in part.first for edge in _former_edges(graph, each)]
    for node in map(graph.by_id.__getitem__, part.again - part.first):
        found = zip(node.preds, node.positions, strict=True)
        edges += [_Edge(node.id, pred, position) for pred, position in found if pred not in part.left_out]
    return edges


def _check_inputs(graph: CanvasGraph, again: set[UUID], edges: Iterable[_Edge], *, have_succeeded: bool) -> None:
    """Are the results there that tasks will take, of those that do not run again?"""
    for edge in edges:
        node = graph.by_id.get(edge.pred)
        if edge.pred in again or (node is not None and (node.result_state == "SUCCESS" or not have_succeeded)):
            continue
        name, advice = graph.by_id[edge.succ].name, "Send the canvas again."
        state = "gone: it has expired, or was sent anew"
        if node is not None:
            state, advice = node.state, "Fork from that task, or redrive."
        raise ImproperlyConfigured(f"{name!r} needs the result of task {edge.pred}, which is {state}. {advice}")


def _earlier(graph: CanvasGraph, message: Message, part: _Part) -> Message:
    marks = graph.marks[message.id]
    if message.id in part.first:
        return forms.first_form(message, marks)
    return forms.sent_form(message, marks) if message.id in part.sent else message


def _former_edges(graph: CanvasGraph, task_id: UUID) -> list[_Edge]:
    return [_Edge(task_id, each.pred, each.position) for each in graph.marks[task_id].former]


def _copy(message: Message, new_ids: dict[UUID, UUID], fork: str) -> Message:
    copied = forms.copied(message, fork, new_ids)
    return replace(copied, id=new_ids[message.id], root=message.root or message.id)
