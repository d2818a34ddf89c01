"""`chord`: a body that runs when all of a header's tasks have succeeded, with the list of their results.

The results are in the order of the header, however the tasks end. A chord has no task of its own: its id and
its result are those of the body. When a task of the header fails the body never runs and fails with
`ChordError`.
"""

from __future__ import annotations

import warnings
from functools import cached_property, partial
from typing import Any, ClassVar

from kombu.utils.functional import maybe_list

from pgtasks._state import current_app
from pgtasks.canvas.groups import as_members, group, stamped
from pgtasks.canvas.ids import one_slot
from pgtasks.canvas.kinds import is_chain, is_chord, is_group, unrolled
from pgtasks.canvas.links import with_callbacks
from pgtasks.canvas.plan import asend, send
from pgtasks.canvas.signature import Entry, Signature, maybe_signature, without_nones
from pgtasks.canvas.stamping import StampingVisitor
from pgtasks.canvas.steps import body_of, first_of
from pgtasks.exceptions import CPendingDeprecationWarning
from pgtasks.joining import allow_join_result
from pgtasks.utils.functional import _regen
from pgtasks.utils.text import remove_repeating_from_task


@Signature.register_type(name="chord")
class _chord(Signature):
    """A header of tasks and a body that gets their results; `chord(header)(body)` sends it."""

    kind: ClassVar[str] = "chord"

    tasks = Entry("kwargs.header")
    body = Entry("kwargs.body")

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Any = None,
        kwargs: Any = None,
        app: Any = None,
        **options: Any,
    ) -> None:
        parts = {"header": as_members(header, app), "body": maybe_signature(body, app=app)}
        super().__init__(task, args, {**(kwargs or {"kwargs": {}}), **parts}, app=app, **options)
        self.subtask_type = "chord"

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Signature:
        """Rebuild a chord from its dict."""
        kwargs = dict(d["kwargs"])
        header, body = kwargs.pop("header", None), kwargs.pop("body", None)
        return cls(header, body, app=app, **{**d, "kwargs": kwargs})

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> _chord:
        """Return a copy, the body copied too."""
        copy = super().clone(args, kwargs, **options)
        copy.body = maybe_signature(copy.body, clone=True)
        return copy

    # -- composing

    def __or__(self, other: Any) -> Any:
        if is_group(other) and len(other.tasks) == 1:
            other = unrolled(other)
        elif not isinstance(other, Signature) or is_group(other) or is_chain(other):
            return super().__or__(other)
        longer = self.clone()
        longer.body = longer.body | other
        return longer

    def link(self, callback: Any) -> Any:
        """Call `callback` with the body's result; returns the callback."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Call `errback` when the body fails, or cannot run since a task of the header failed.

        With the setting `task_allow_error_cb_on_chord_header` it is called for failing tasks of the header as
        well.
        """
        errback = maybe_signature(errback)
        header = maybe_list(self.tasks) or []
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for task in header:
                task.link_error(errback.clone(immutable=True))
        else:
            warnings.warn(
                "task_allow_error_cb_on_chord_header=False is pending deprecation: errbacks of a chord are "
                "linked to its body only. Set it to True to try what will become the default: header tasks "
                "call them too.",
                CPendingDeprecationWarning,
                stacklevel=2,
            )
        for task in header:
            if is_chord(task):
                task.link_error(errback)
        self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Make the tasks of the header (im)mutable, not the body."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp the header, and with a visitor the body; see `pgtasks.canvas.stamping`."""
        tasks = self.tasks.tasks if is_group(self.tasks) else self.tasks
        found = None if visitor is None else visitor.on_chord_header_start(self, **headers) or {}
        headers = self._stamp_headers(found, append_stamps, **headers)
        self.stamp_links(visitor, append_stamps, **headers)
        stamp = partial(stamped, how={"visitor": visitor, "append_stamps": append_stamps, **headers})
        if isinstance(tasks, _regen):
            tasks.map(stamp)
        else:
            for task in tasks:
                stamp(task)
        if visitor is None:
            return
        visitor.on_chord_header_end(self, **headers)
        if self.body is not None:
            found = visitor.on_chord_body(self, **headers) or {}
            self.body.stamp(visitor, append_stamps, **self._stamp_headers(found, append_stamps, **headers))

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
        """Give header and body their ids and return the body's result, the header's `GroupResult` as its
        parent."""
        if not is_group(self.tasks):
            self.tasks = group(self.tasks, app=self.app)
        with one_slot():
            header = self.tasks.freeze(parent_id=parent_id, root_id=root_id, chord=self.body)
            self.id = self.tasks.id
            if self.body is None:
                return None
            result = self.body.freeze(_id, root_id=root_id, chord=chord, group_id=group_id, group_index=group_index)
        first_of(result).parent = header
        return result

    # -- running

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send the chord, with this body if one is given."""
        return self.apply_async((), {"body": body} if body else {}, **options)

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any) -> Any:
        """Send header and body in one statement; returns the body's result, whose parent is the header's.

        The arguments go to the header's tasks, `task_id`, `link` and `link_error` to the body, countdown and
        ETA to the header, other options to both.
        """
        if self.app.conf.task_always_eager:
            return self._apply_eagerly(args, kwargs, options)
        return send(self, args, kwargs, without_nones({"task_id": task_id, **options}))

    async def aapply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> Any:
        """`apply_async` for coroutines."""
        if self.app.conf.task_always_eager:
            return self._apply_eagerly(args, kwargs, options)
        return await asend(self, args, kwargs, without_nones({"task_id": task_id, **options}))

    def apply(
        self, args: Any = None, kwargs: Any = None, propagate: bool = True, body: Any = None, **options: Any
    ) -> Any:
        """Run the header, then the body with its results, here and now."""
        body = body_of(body or self.body, self.app)
        header = self.tasks.clone() if is_group(self.tasks) else group(self.tasks, app=self.app)
        results = header.apply(args or (), kwargs or {}).get(propagate=propagate)
        return body.apply(args=(results,))

    def _apply_eagerly(self, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        kwargs = {**self.kwargs.get("kwargs", {}), **(kwargs or {})}
        body = body_of(kwargs.pop("body", None) or self.body, self.app)
        inherited = {key: options[key] for key in options if key not in ("link", "link_error", "parent_id")}
        callbacks = {**self.options, **options}
        body = with_callbacks(body.clone(**inherited), callbacks.get("link"), callbacks.get("link_error"))
        args = (*args, *self.args) if args and not self.immutable else self.args
        with allow_join_result():
            return self.apply(args, kwargs, body=body)

    # -- looking

    @cached_property
    def app(self) -> Any:
        """The app it is bound to, that of its first task that has one, of its body, or the current one."""
        if self._app is not None:
            return self._app
        tasks = self.tasks.tasks if is_group(self.tasks) else self.tasks
        candidates = [tasks[0] if tasks else None, self.body]
        found = (_own_app(candidate) for candidate in candidates)
        return next((app for app in found if app is not None), current_app)

    def __length_hint__(self) -> int:
        """How many results the body waits for."""
        return sum(count_ends(task) for task in getattr(self.tasks, "tasks", self.tasks))

    @classmethod
    def _descend(cls, sig: Any) -> int:
        return count_ends(sig)

    def __repr__(self) -> str:
        if not self.body:
            return f"<chord without body: {self.tasks!r}>"
        if not is_chain(self.body) or not self.body.tasks:
            return "%" + remove_repeating_from_task(self.body["task"], self.body.reprcall(self.tasks))
        first, *rest = self.body.tasks
        tail = Signature.TYPES["chain"](rest, app=self._app)
        shown = repr(tail) if rest else f"<chain@{id(tail):#x}: empty>"
        return remove_repeating_from_task(first["task"], f"%({first.reprcall(self.tasks)} | {shown})")


chord = _chord


def count_ends(sig: Any) -> int:
    """Count the tasks whose results are the signature's own: a group's members', a chain's last, a chord's
    body's."""
    sig = maybe_signature(sig)
    if is_group(sig):
        return sum(count_ends(task) for task in sig.tasks)
    if is_chain(sig):
        return next((count for count in map(count_ends, reversed(sig.tasks)) if count), 0)
    return count_ends(sig.body) if is_chord(sig) else 1


def _own_app(sig: Any) -> Any:
    """The app that a signature is bound to, itself or through its tasks; None when it has only the current one.

    What is not a signature yet, such as a dict, has none either.
    """
    app = getattr(sig, "_app", None)
    app = getattr(sig, "app", None) if app is None else app
    return None if app is current_app else app
