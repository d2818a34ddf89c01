"""`group`: tasks that run in parallel.

A group has no task of its own. Sending it sends its members, nested groups unrolled, and gives a
`GroupResult`. A group with a successor becomes a chord. The members may come from a generator, which is
consumed as late as possible.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, MutableSequence
from functools import partial
from types import GeneratorType
from typing import Any, ClassVar

from kombu.utils.functional import fxrange

from pgtasks._state import current_app
from pgtasks.canvas.ids import fresh_id, one_slot
from pgtasks.canvas.kinds import is_empty_chain, is_empty_group, is_group
from pgtasks.canvas.plan import asend, remembered, send
from pgtasks.canvas.signature import Entry, Signature, maybe_signature, signature
from pgtasks.canvas.stamping import StampingVisitor
from pgtasks.canvas.steps import as_signature
from pgtasks.utils.functional import _regen, regen
from pgtasks.utils.text import remove_repeating_from_task


def _several(members: Any, whole: str = "group") -> Any:
    try:
        iter(members)
    except TypeError as error:
        raise TypeError(
            f"The members of the {whole} are {members!r}, neither a signature nor several. Use task.s(...) to make one of a"
            " task."
        ) from error
    return members


@Signature.register_type()
class group(Signature):
    """Tasks to run side by side; a single iterable argument is the list of them. Options apply to every
    member."""

    kind: ClassVar[str] = "group"

    tasks = Entry("kwargs.tasks")

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Any = tasks
        if len(tasks) == 1:
            members = tasks[0].tasks if is_group(tasks[0]) else tasks[0]
            members = [members.clone()] if isinstance(members, Signature) else regen(_several(members))
        super().__init__("celery.group", (), {"tasks": members}, **options)
        self.subtask_type = "group"

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Signature:
        """Rebuild a group from its dict, whose members become signatures, in the dict too."""
        members = d["kwargs"]["tasks"]
        rebuilt = (maybe_signature(member, app=app) for member in members)
        container = regen if isinstance(members, _regen) else type(members)
        d["kwargs"]["tasks"] = container(rebuilt)
        return cls(d["kwargs"]["tasks"], app=app, **d["options"])

    # -- composing

    def __or__(self, other: Any) -> Any:
        if is_empty_group(other) and not isinstance(other.tasks, _regen):
            return self
        return Signature.TYPES["chord"](self, body=other, app=self._app)

    def link(self, callback: Any) -> Any:
        """Call `callback` when the first member succeeds, without its result. To wait for all, use a
        chord."""
        return self.tasks[0].link(maybe_signature(callback, clone=True).set(immutable=True))

    def link_error(self, errback: Any) -> tuple[Any, ...]:
        """Call `errback` for every member that fails; returns what was linked to each."""
        errback = maybe_signature(errback)
        return tuple(member.link_error(errback.clone()) for member in self.tasks)

    def set_immutable(self, immutable: bool) -> None:
        """Make all members (im)mutable."""
        for member in self.tasks:
            member.set_immutable(immutable)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group:
        """Give the members growing countdowns, in seconds; returns the group itself."""
        countdowns = fxrange(start, stop, step, repeatlast=True)
        for member in self.tasks:
            member.set(countdown=next(countdowns))
        return self

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp the members and the group's own callbacks; see `pgtasks.canvas.stamping`."""
        found = None if visitor is None else visitor.on_group_start(self, **headers) or {}
        headers = self._stamp_headers(found, append_stamps, **headers)
        self.stamp_links(visitor, append_stamps, **headers)
        stamp = partial(stamped, how={"visitor": visitor, "append_stamps": append_stamps, **headers})
        if isinstance(self.tasks, _regen):
            self.tasks.map(stamp)
        else:
            self._set_members([stamp(maybe_signature(member, app=self.app)) for member in self.tasks])
        if visitor is not None:
            visitor.on_group_end(self, **headers)

    def _set_members(self, members: list[Any]) -> None:
        """Replace the members, in place where possible: others may hold the same list."""
        if isinstance(self.tasks, MutableSequence):
            self.tasks[:] = members
        else:
            self.tasks = members

    # -- freezing

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give all members their ids and return the `GroupResult`. Nested groups are flattened in place."""
        options = self.options
        if "task_id" not in options:
            options["task_id"] = fresh_id(root_id)
        if group_id:
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        shared = {
            "group_id": group_id,
            "chord": chord,
            "root_id": options.setdefault("root_id", root_id),
            "parent_id": options.setdefault("parent_id", parent_id),
        }
        freeze_members = self._freeze_lazily if isinstance(self.tasks, _regen) else self._freeze_now
        with one_slot():
            return self.app.GroupResult(options["task_id"], freeze_members(shared))

    _freeze = freeze

    def _freeze_now(self, shared: dict[str, Any]) -> list[Any]:
        members = list(self._flattened())
        results = [member.freeze(group_index=index, **shared) for index, member in enumerate(members)]
        self._set_members(members)
        return results

    def _freeze_lazily(self, shared: dict[str, Any]) -> Any:
        members = self.tasks = regen(maybe_signature(member, app=self._app).clone() for member in self.tasks)
        return regen(
            member.freeze(group_index=index, **shared)
            for index, member in enumerate(members)
            if not is_empty_chain(member)
        )

    def _flattened(self) -> Iterator[Any]:
        """Copies of all members, nested groups replaced by their own. Empty chains are nothing, so they are
        left out.

        As in Celery the members of a nested group come out in reverse, and a chord's body sees them so.
        """
        todo = deque(self.tasks)
        while todo:
            member = as_signature(todo.popleft(), self._app, "A member of the group").clone()
            if is_group(member):
                todo.extendleft(member.tasks)
            elif not is_empty_chain(member):
                yield member

    # -- running

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send the members, with these arguments put first."""
        return self.apply_async(args, **options)

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        add_to_parent: bool = True,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Send the members in one statement; returns their `GroupResult`. An empty group sends nothing."""
        refuse_links(link, link_error)
        if self.app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        if not self.tasks:
            return self.freeze()
        sent = None if args or kwargs else self.app.send_group(self, options)
        if sent is not None:
            return remembered(sent, sent, add_to_parent)
        return send(self, args, kwargs, options, add_to_parent=add_to_parent)

    async def aapply_async(
        self, args: Any = None, kwargs: Any = None, add_to_parent: bool = True, **options: Any
    ) -> Any:
        """`apply_async` for coroutines."""
        refuse_links(options.pop("link", None), options.pop("link_error", None))
        if self.app.conf.task_always_eager or not self.tasks:
            return self.apply_async(args, kwargs, **options)
        sent = None if args or kwargs else await self.app.asend_group(self, options)
        if sent is not None:
            return remembered(sent, sent, add_to_parent)
        return await asend(self, args, kwargs, options, add_to_parent=add_to_parent)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the members one after the other, here and now."""
        if not self.tasks:
            return self.freeze()
        _, _, options = self._merge(options=options)
        options["group_id"] = group_id = options.pop("task_id", None) or fresh_id(options.get("root_id"))
        results = [m.apply(args=args or (), kwargs=kwargs or {}, **options) for m in self._unrolled_members()]
        return self.app.GroupResult(group_id, results)

    def _unrolled_members(self) -> Iterator[Any]:
        """Copies of all members, those of nested groups in their place, empty chains left out."""
        for member in self.tasks:
            member = as_signature(member, self._app, "A member of the group").clone()
            if is_group(member):
                yield from member._unrolled_members()
            elif not is_empty_chain(member):
                yield member

    # -- looking

    @property
    def app(self) -> Any:
        """The app it is bound to, that of its first member, or the current one."""
        if self._app is not None:
            return self._app
        return as_signature(self.tasks[0], None, "A member of the group").app if self.tasks else current_app

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        return remove_repeating_from_task(self.tasks[0]["task"], f"group({self.tasks!r})")


def refuse_links(link: Any, link_error: Any) -> None:
    """Raise TypeError when callbacks are given for a group as a whole."""
    if link is not None:
        raise TypeError("Cannot add link to group: use a chord")
    if link_error is not None:
        raise TypeError("Cannot add link to group: do that on individual tasks")


def as_members(tasks: Any, app: Any) -> Any:
    """What a chord keeps as its header: the members of a group or chain, one signature, or copies of several.

    As in Celery, a member may be a task or the name of one.
    """
    if isinstance(tasks, dict):
        tasks = signature(tasks, app=app)
        return tasks.tasks if getattr(tasks, "kind", None) in ("group", "chain") else [tasks]
    copies: Iterable[Any] = (_as_member(task, app) for task in _several(tasks, "header"))
    return regen(copies) if isinstance(tasks, GeneratorType | _regen) else list(copies)


def _as_member(task: Any, app: Any) -> Any:
    is_called_for = isinstance(task, str | dict) or hasattr(task, "name")
    return signature(task, app=app) if is_called_for else as_signature(task, app, "A member of the header")


def stamped(member: Any, how: dict[str, Any]) -> Any:
    """Stamp a member of a group or header; returns it."""
    member.stamp(**how)
    return member
