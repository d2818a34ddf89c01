"""What producers ask for: one task or a canvas, under ids chosen before, with what must come of it.

A `Request` says which tasks wait for which, and what each must see of those before it: the judge checks both, whatever the
shape. A canvas is written as it would be in a program, and what it must do as data beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from pgtasks import chain, chord, group
from pgtasks.message import new_id
from tests.chaos import jobs


@dataclass
class Request:
    """One request: what sends it, the ids of all its tasks, and what must hold of them."""

    shape: str
    arguments: Mapping[str, Any]
    request: str = field(default_factory=lambda: uuid4().hex)
    ids: list[str] = field(default_factory=list)
    #: By the id of a task: those that must have succeeded before it is handed out, and what it must see of them.
    after: dict[str, list[str]] = field(default_factory=dict)
    sees: dict[str, Any] = field(default_factory=dict)
    #: How each must end, where that is not SUCCESS.
    ends: dict[str, str] = field(default_factory=dict)
    #: Numbers of the tasks that must be undone, in this order.
    undone: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.send = SHAPES[self.shape](self)

    def id(self) -> str:
        self.ids.append(str(new_id()))
        return self.ids[-1]

    def node(self, *before: Any, sees: Any = None, task: Any = None, **arguments: Any) -> Any:
        """A task that waits for others; its number is its place among the ids."""
        task_id = self.id()
        self.after[task_id] = [ids for each in before for ids in ([each.id] if hasattr(each, "id") else each)]
        if sees is not None:
            self.sees[task_id] = sees
        given = {"request": self.request, "n": len(self.ids) - 1, **self.arguments, **arguments}
        return (task or jobs.node).s(**given).set(task_id=task_id)

    def facts(self) -> dict[str, Any]:
        """What the history must know of it before it is sent."""
        names = ("request", "shape", "ids", "after", "sees", "ends", "undone")
        return {name: getattr(self, name) for name in names}


Sender = Callable[[], Any]


def _single(task: Any, **options: Any) -> Callable[[Request], Sender]:
    def prepare(request: Request) -> Sender:
        task_id, kwargs = request.id(), {"request": request.request, **request.arguments}
        return lambda: task.apply_async(kwargs=kwargs, task_id=task_id, **options)

    return prepare


def _chain(request: Request) -> Sender:
    size = request.arguments.get("size", 4)
    request.arguments = {key: value for key, value in request.arguments.items() if key != "size"}
    links: list[Any] = []
    for n in range(size):
        links.append(request.node(*links[-1:], sees=[n - 1] if n else []))
    return chain(*links).apply_async


def _chord(request: Request) -> Sender:
    size = request.arguments.get("size", 4)
    request.arguments = {key: value for key, value in request.arguments.items() if key != "size"}
    header = [request.node() for _ in range(size)]
    body = request.node(*header, sees=[list(range(size))])
    return lambda: chord(header)(body)


def _single_member_chord(request: Request) -> Sender:
    member = request.node()
    body = request.node(member, sees=[[0]])
    return lambda: chord([member])(body)


def _empty_header(request: Request) -> Sender:
    first = request.node()
    body = request.node(first, sees=[[]])
    last = request.node(body, sees=[1])
    return chain(first, chord(group([]), body), last).apply_async


def _chord_of_chords(request: Request) -> Sender:
    bodies = []
    for start in (0, 3):
        header = [request.node(), request.node()]
        bodies.append((header, request.node(*header, sees=[[start, start + 1]])))
    top = request.node(*[body for _, body in bodies], sees=[[2, 5]])
    return lambda: chord([chord(header, body) for header, body in bodies])(top)


def _nested(request: Request) -> Sender:
    """A chain, then a group of a chord, a chain and a task, then a body, whose chain goes on."""
    first = request.node()
    header = [request.node(first, sees=[0]), request.node(first, sees=[0])]
    body = request.node(*header, sees=[[1, 2]])
    one = request.node(first, sees=[0])
    two = request.node(one, sees=[4])
    lone = request.node(first, sees=[0])
    joined = request.node(body, two, lone, sees=[[3, 5, 6]])
    last = request.node(joined, sees=[7])
    return chain(first, group(chord(header, body), chain(one, two), lone), joined, last).apply_async


def _replaced(request: Request) -> Sender:
    """In the middle of a chain, a task that goes on as a chain of two."""
    first = request.node()
    inner = request.id()
    middle = request.node(first, task=jobs.replaced, inner=inner)
    request.after[inner] = [first.id]
    request.sees |= {inner: [], middle.id: [1]}
    last = request.node(middle, sees=[2])
    return chain(first, middle, last).apply_async


def _joined(request: Request) -> Sender:
    """A chord, one of whose members adds another one."""
    first, added = request.node(), request.id()
    adding = request.node(task=jobs.adding, added=added)
    body = request.node(first, adding, [added], sees=[[0, 2, 1]])
    return lambda: chord([first, adding])(body)


def _undone(request: Request) -> Sender:
    """A chain with a group in it, the end of which fails."""
    undo = jobs.undo.s(undoes=request.request, **request.arguments)
    first = request.node().undo(undo)
    header = [request.node(first, sees=[0]).undo(undo) for _ in range(2)]
    body = request.node(*header, sees=[[1, 2]]).undo(undo)
    last = request.node(body, task=jobs.failing)
    request.ends[last.id] = "FAILURE"
    request.undone = [3, 2, 1, 0]
    return chain(first, group(header), body, last).apply_async


def _family(request: Request) -> Sender:
    """A task that sends others, one by one, under ids that it has been given."""
    children = [request.id() for _ in range(5)]
    given = {"request": request.request, "n": 5, "children": children, **request.arguments}
    task_id = request.id()
    return lambda: jobs.parent.apply_async(kwargs=given, task_id=task_id)


SHAPES: dict[str, Callable[[Request], Sender]] = {
    "plain": _single(jobs.work),
    "later": _single(jobs.work, countdown=0.3),
    "flaky": _single(jobs.flaky),
    "once": _single(jobs.once),
    "poison": _single(jobs.poison),
    "chain": _chain,
    "chord": _chord,
    "single": _single_member_chord,
    "empty": _empty_header,
    "chords": _chord_of_chords,
    "nested": _nested,
    "replaced": _replaced,
    "joined": _joined,
    "undone": _undone,
    "family": _family,
}
#: What producers choose from; poison is only sent on request.
COMMON = ("plain", "plain", *(shape for shape in SHAPES if shape != "poison"))
CANVASES = ("chain", "chord", "single", "empty", "chords", "nested", "replaced", "joined", "undone")
