"""`chain`: tasks that run one after the other, each with the result of the one before.

A chain has no task of its own: its id and its result are those of its last step. Composing keeps it flat. A
group that something follows becomes the header of a chord, what follows a chord goes into its body, and what
is empty counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any, ClassVar, Self

from kombu.utils.functional import is_list, maybe_list

from pgtasks import states
from pgtasks._state import current_app
from pgtasks.canvas.chords import chord
from pgtasks.canvas.ids import one_slot
from pgtasks.canvas.kinds import is_chain, is_chord, is_empty_group, is_group, unrolled
from pgtasks.canvas.plan import asend, send
from pgtasks.canvas.signature import Entry, Signature, maybe_signature
from pgtasks.canvas.stamping import StampingVisitor
from pgtasks.canvas.steps import as_signature, chain_steps, first_of
from pgtasks.joining import allow_join_result
from pgtasks.utils.functional import regen
from pgtasks.utils.text import remove_repeating_from_task


@Signature.register_type(name="chain")
class _chain(Signature):
    """Steps, as they are given: nothing is flattened or upgraded before it is composed or sent."""

    kind: ClassVar[str] = "chain"

    tasks = Entry("kwargs.tasks")

    def __init__(self, *tasks: Any, **options: Any) -> None:
        steps = regen(tasks[0]) if len(tasks) == 1 and is_list(tasks[0]) else tasks
        super().__init__("celery.chain", (), {"tasks": steps}, **options)
        self.subtask_type = "chain"

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Signature:
        """Rebuild a chain from its dict."""
        steps = d["kwargs"]["tasks"]
        if steps:
            steps = [maybe_signature(step, app=app) for step in steps]
        return cls(steps, app=app, **d["options"])

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> Self:
        """Return a copy, its steps copied too."""
        copy = super().clone(args, kwargs, **options)
        copy.kwargs["tasks"] = [maybe_signature(step, app=self._app, clone=True) for step in copy.kwargs["tasks"]]
        return copy

    # -- composing

    def unchain_tasks(self) -> list[Any]:
        """Return copies of the steps that carry the chain's own callbacks (the last) and errbacks (all)."""
        steps = [step.clone() for step in self.tasks]
        for callback in maybe_list(self.options.get("link")) or []:
            steps[-1].link(callback)
        for errback in maybe_list(self.options.get("link_error")) or []:
            for step in steps:
                step.link_error(errback)
        return steps

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        if is_empty_group(other):
            return self
        if is_chain(other):
            return reduce(or_, other.unchain_tasks(), self)
        if is_group(other):
            other = unrolled(other)
            return self._then_group(other) if is_group(other) else self | other
        return self._then_task(other)

    def _then_group(self, other: Any) -> Any:
        steps = self.unchain_tasks()
        if not steps:
            return other
        if is_chord(steps[-1]):
            steps[-1].body = steps[-1].body | other
            return type(self)(steps, app=self.app)
        return type(self)([*steps, other], app=self._app)

    def _then_task(self, other: Any) -> Any:
        last = self.tasks[-1] if self.tasks else None
        if is_chord(last) and not is_chord(other):
            longer = self.clone()
            longer.tasks[-1].body = longer.tasks[-1].body | other
            return longer
        if not is_group(last):
            return type(self)([*self.unchain_tasks(), other], app=self._app)
        longer = self.clone()
        *steps, header = longer.tasks
        upgraded = chord(header, other, app=self._app)
        if steps and is_chord(steps[-1]):
            steps[-1].body = steps[-1].body | upgraded
        else:
            steps.append(upgraded)
        longer.tasks = steps
        return longer

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp the steps and the chain's own callbacks; see `pgtasks.canvas.stamping`."""
        found = None if visitor is None else visitor.on_chain_start(self, **headers) or {}
        headers = self._stamp_headers(found, append_stamps, **headers)
        self.stamp_links(visitor, **headers)
        for step in self.tasks:
            step.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chain_end(self, **headers)

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
        """Give all steps their ids, in place, and return the last one's result, linked back through
        `parent`."""
        steps = chain_steps(self, apart=False)
        if not steps:
            raise IndexError("An empty chain has no result to freeze. Give it a step, or leave it out.")
        if self.args:
            steps[0].args = (*self.args, *steps[0].args)
        *before, last = steps
        with one_slot():
            results = [step.freeze(root_id=root_id) for step in before]
            results.append(last.freeze(_id, root_id=root_id, group_id=group_id, chord=chord, group_index=group_index))
        for earlier, later in pairwise(results):
            first_of(later).parent = earlier
        self.id = results[-1].id
        return results[-1]

    # -- running

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send the chain, with these arguments put first; does nothing when it is empty."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send all steps in one statement; returns the last one's result, None for an empty chain.

        Arguments and options go to the first step; `task_id` and `link` are for the last, `link_error` for
        all.
        """
        if self.app.conf.task_always_eager:
            with allow_join_result():
                return self.apply(args, kwargs, **options)
        return send(self, args, kwargs, options)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """`apply_async` for coroutines."""
        if self.app.conf.task_always_eager:
            return self.apply_async(args, kwargs, **options)
        return await asend(self, args, kwargs, options)

    run = apply_async

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the steps one after the other, here and now; a step that is ignored or rejected ends it."""
        options = {**self.options, **options}
        link = options.pop("link", None)
        steps = [step for step in self.tasks if not is_empty_group(step)] or list(self.tasks[-1:])
        result = None
        inputs: tuple[Any, Any] = (args or (), kwargs or {})
        for position, step in enumerate(steps, start=1):
            step = step.clone()
            if link and position == len(steps):
                (step.body if is_chord(step) else step).extend_list_option("link", link)
            previous, result = result, step.apply(*inputs, **options)
            result.parent = previous
            if getattr(result, "state", None) in (states.IGNORED, states.REJECTED):
                break
            if position < len(steps):
                inputs = ((result.get(),), None)
        return result

    # -- looking

    @property
    def app(self) -> Any:
        """The app it is bound to, that of its first step, or the current one."""
        app = self._app
        if app is None and self.tasks:
            app = getattr(self.tasks[0], "app", None)
        return app or current_app

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}@{id(self):#x}: empty>"
        return remove_repeating_from_task(self.tasks[0]["task"], " | ".join(map(repr, self.tasks)))


class chain(_chain):
    """Steps composed as with `|`: `chain(a, b, c)` or `chain([a, b, c])` is `a | b | c`.

    So the outcome may be a chord, or a group. A chain of one task, and one with options, is kept as it is
    given.
    """

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        if options or not tasks or (len(tasks) == 1 and not is_list(tasks[0])):
            return super().__new__(cls)
        composed = compose(list(tasks[0] if len(tasks) == 1 else tasks))
        if cls is not chain and is_chain(composed) and not isinstance(composed, cls):
            return super().__new__(cls, composed.tasks)
        return composed


def compose(tasks: Sequence[Any]) -> Any:
    """Join tasks as `|` would, starting from an empty chain; all but the last are copied.

    Every `|` copies the chain that it extends, and the bodies of chords in it once per level. Here the chain is
    our own and grows in place, so that joining takes linear time.
    """
    composed: Any = _chain()
    for position, task in enumerate(tasks, start=1):
        if not isinstance(task, dict):
            as_signature(task, None, f"Step {position} of the chain")
        is_copied = isinstance(task, Signature) and position < len(tasks)
        composed = _grown(composed, task.clone() if is_copied else task)
    if type(composed) is _chain and any(map(is_chain, tasks)):
        # An errback that was an inner chain's is now that of several steps: each gets a copy, to be stamped once.
        steps = composed.tasks
        composed.tasks = [*(step.clone() for step in steps[:-1]), *steps[-1:]]
    return composed


def _grown(sig: Any, other: Any) -> Any:
    """`sig | other` for a `sig` that is ours to change, without copying what it holds."""
    if is_chain(sig) and is_group(other):
        other = unrolled(other)
    is_single = isinstance(other, Signature) and not (is_chain(other) or is_group(other) or is_chord(other))
    if is_single and is_chord(sig):
        sig.body = _grown(sig.body, other)
        return sig
    is_plain_chain = is_chain(sig) and sig.tasks and not sig.options
    if not is_plain_chain or is_empty_group(other) or not (is_single or is_group(other)):
        return sig | other
    steps = sig.tasks = sig.tasks if isinstance(sig.tasks, list) else list(sig.tasks)
    last = steps[-1]
    if is_chord(last):
        last.body = _grown(last.body, other)
    elif is_group(last) and is_single:
        if is_chord(steps[-2:][0]):
            return sig | other
        steps[-1] = chord(last, other)
    else:
        steps.append(other)
    return sig
