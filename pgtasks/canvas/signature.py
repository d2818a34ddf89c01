"""A `Signature`: what to call, with which arguments and options, as a plain dict.

The dict is the wire format and is exactly Celery's, so signatures made by either library can be stored, sent
and read by the other:

    {"task": name, "args": [...], "kwargs": {...}, "options": {...}, "subtask_type": null, "immutable": false}

`subtask_type` names the class that knows the rest (`chain`, `group`, `chord`, ...); `Signature.TYPES` is
their registry and `from_dict` the way back. Nothing here talks to a database: a signature reaches the world
through the app it is bound to, or the current app.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableSequence
from copy import deepcopy
from functools import cached_property, partial
from itertools import chain as concat
from operator import methodcaller
from typing import Any, ClassVar, Self, TypeVar

from kombu.utils.functional import maybe_list, reprcall

from pgtasks._state import current_app
from pgtasks.canvas.ids import fresh_id
from pgtasks.canvas.kinds import is_chain, is_group, unrolled
from pgtasks.canvas.stamping import StampingVisitor, collect_stamps

SignatureClass = TypeVar("SignatureClass", bound="type[Signature]")


class Entry(property):
    """An attribute that lives in the dict under a key, or `parent.key`; None when the key is missing.

    A property, since Python reads those without calling anything written in Python, and a canvas is read a lot.
    """

    def __init__(self, path: str) -> None:
        parent, _, key = path.rpartition(".")
        get = (lambda sig: sig[parent].get(key)) if parent else methodcaller("get", key)

        def store(sig: Any, value: Any) -> None:
            (sig[parent] if parent else sig)[key] = value

        super().__init__(get, store, doc=f"The signature's {key}, as stored in the dict.")


class Signature(dict[str, Any]):
    """One task invocation, not yet sent: a task, arguments and options.

    `task` is a task, or its name, or a dict that another signature was serialised to. Arguments given later
    are put before these ones (`add.s(2)` called with 1 is `add(1, 2)`), unless the signature is immutable.
    """

    TYPES: ClassVar[dict[str, type[Signature]]] = {}

    #: What the class is among the primitives; subclasses in user code inherit it.
    kind: ClassVar[str] = "task"

    #: Options that a later call must not change: the task's place in a group and its stamps depend on them.
    _IMMUTABLE_OPTIONS: ClassVar[frozenset[str]] = frozenset({"group_id", "stamped_headers"})

    _app: Any = None
    _type: Any = None
    #: The id under which this very object was last sent, as a canvas.
    _sent_as: str | None = None

    id = Entry("options.task_id")
    parent_id = Entry("options.parent_id")
    root_id = Entry("options.root_id")
    task = Entry("task")
    args = Entry("args")
    kwargs = Entry("kwargs")
    options = Entry("options")
    subtask_type = Entry("subtask_type")
    immutable = Entry("immutable")

    # -- making

    def __init__(
        self,
        task: Any = None,
        args: Any = None,
        kwargs: Any = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Any = None,
        **more_options: Any,
    ) -> None:
        self._app = app
        if isinstance(task, dict):
            super().__init__(task)
            return
        if hasattr(task, "name"):
            self._type = task
            task = task.name
        super().__init__(
            task=task,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options=dict(options or {}, **more_options),
            subtask_type=subtask_type,
            immutable=immutable,
        )

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[SignatureClass], SignatureClass]:
        """Decorate a subclass so that dicts with this `subtask_type` become instances of it."""

        def register(subclass: SignatureClass) -> SignatureClass:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Signature:
        """Rebuild a signature of the right class from its dict."""
        kind = d.get("subtask_type")
        target = cls.TYPES[kind] if kind else cls
        return Signature(d, app=app) if target is cls else target.from_dict(d, app=app)

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> Self:
        """Return a copy with these arguments put first, keyword arguments and options merged in."""
        if args or kwargs or options:
            args, kwargs, options = self._merge(args, kwargs, options)
        else:
            args, kwargs, options = self.args, self.kwargs, self.options
        kind = self.get("subtask_type")
        entries = {
            "task": self.get("task"),
            "args": tuple(args),
            # Shallow: arguments may be lazy or not copyable, and only the mapping itself gets changed.
            "kwargs": dict(kwargs) if kwargs is self.kwargs else kwargs,
            "options": deepcopy(options) if options else {},
            "subtask_type": kind,
            "immutable": self.get("immutable"),
        }
        copy = Signature.from_dict(entries, app=self._app) if kind else Signature(entries, app=self._app)
        copy._type = self._type
        return copy  # type: ignore[return-value]  # the registry gives back the class that was asked for

    partial = clone

    def replace(self, args: Any = None, kwargs: Any = None, options: Any = None) -> Self:
        """Return a copy in which those of the three that are given take the place of the old ones."""
        copy = self.clone()
        if args is not None:
            copy.args = args
        if kwargs is not None:
            copy.kwargs = kwargs
        if options is not None:
            copy.options = options
        return copy

    def _merge(
        self,
        args: Any = None,
        kwargs: Any = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Combine later arguments and options with the stored ones.

        An immutable signature keeps its arguments (unless forced) but takes options. Stamps, and the options
        in `_IMMUTABLE_OPTIONS`, stay as they are once set.
        """
        merged = self.options
        if options is not None:
            fixed: Collection[str] = self._IMMUTABLE_OPTIONS
            if "stamped_headers" in self.options:
                fixed = {*fixed, *(self.options["stamped_headers"] or ())}
            later = {key: options[key] for key in options if key not in fixed or key not in self.options}
            merged = {**self.options, **later}
        if self.immutable and not force:
            return self.args, self.kwargs, merged
        return (
            tuple(args) + tuple(self.args) if args else self.args,
            dict(self.kwargs, **kwargs) if kwargs else self.kwargs,
            merged,
        )

    # -- changing in place

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Update the execution options in place; returns the signature itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether the signature ignores arguments that are added later."""
        self.immutable = immutable

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give the task its id now and return the result object that will have it.

        An id that is already set stays. Sending a frozen task twice sends one task: the second changes nothing. A
        frozen canvas that is sent again once all of it has ended runs again.
        """
        options = self.options
        if "task_id" not in options:
            options["task_id"] = _id or fresh_id(root_id)
        if root_id:
            options["root_id"] = root_id
        if parent_id:
            options["parent_id"] = parent_id
        if "reply_to" not in options:
            options["reply_to"] = self.app.thread_oid
        if group_id:
            options.setdefault("group_id", group_id)
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        return self.AsyncResult(options["task_id"])

    _freeze = freeze

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add `value` to the option, which becomes a list, unless an equal one is in it; returns `value`."""
        items = self._list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add all of `value`, one or a list, to the option, which becomes a list."""
        self._list_option(key).extend(maybe_list(value))

    def _list_option(self, key: str) -> MutableSequence[Any]:
        items: Any = self.options.setdefault(key, [])
        if isinstance(items, MutableSequence):
            return items
        made = self.options[key] = [items]
        return made

    def link(self, callback: Any) -> Any:
        """Call `callback` with the return value when the task succeeds; returns the callback."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call `errback` when the task fails; returns the errback."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """Like `link_error`, but returns the signature itself, so that calls can be strung together."""
        self.link_error(errback)
        return self

    def undo(self, undo: Any) -> Self:
        """Say what undoes the task, should it succeed and its canvas fail; returns the signature itself.

        The undo is a signature of one task. What the task returned is its first argument, unless it is immutable.
        """
        undo = maybe_signature(undo)
        for sig, where in ((undo, "An undo"), (self, "What an undo is given to")):
            if getattr(sig, "kind", None) != "task":
                raise TypeError(f"{where} must be a signature of one task, not {sig!r}: undos belong to single tasks.")
        self.options["undo"] = undo
        return self

    def flatten_links(self) -> list[Any]:
        """Return the signature, its callbacks, their callbacks and so on."""
        links = maybe_list(self.options.get("link")) or []
        return [self, *concat.from_iterable(link.flatten_links() for link in links)]

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Add custom headers to the task, its callbacks and errbacks; see `pgtasks.canvas.stamping`."""
        self.stamp_links(visitor, append_stamps, **headers)
        found = None if visitor is None else visitor.on_signature(self, **headers) or {}
        return self.set(**self._stamp_headers(found, append_stamps, **headers))

    def stamp_links(self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp the callbacks and errbacks only."""
        for option, hook in (("link", "on_callback"), ("link_error", "on_errback")):
            stamps = deepcopy(headers)
            for link in maybe_list(self.options.get(option)) or []:
                link = maybe_signature(link, app=self.app)
                found = None if visitor is None else getattr(visitor, hook)(link, **stamps) or {}
                # Without its own: a callback does not inherit the stamps of the task that calls it.
                stamps = self._stamp_headers(found, append_stamps, self_headers=False, **stamps)
                link.stamp(visitor, append_stamps, **stamps)

    def _stamp_headers(
        self,
        visitor_headers: dict[str, Any] | None = None,
        append_stamps: bool = False,
        self_headers: bool = True,
        **headers: Any,
    ) -> dict[str, Any]:
        own = self.options if self_headers else None
        return collect_stamps(headers, visitor_headers, own, append=append_stamps)

    # -- running

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task here and now, as a function."""
        args, kwargs, _ = self._merge(args, kwargs)
        return self.type(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send the task, with these arguments put first."""
        return self.apply_async(args, kwargs)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the task here and now, with everything a worker does; returns an `EagerResult`."""
        args, kwargs, options = self._merge(args, kwargs, without_nones(options))
        options.pop("undo", None)
        return self.type.apply(args, kwargs, **options)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the task, with these arguments put first and these options merged in; returns its result
        object.

        A task that is not registered here is sent by name.
        """
        args, kwargs, options = self._merge_to_send(args, kwargs, options)
        return self._apply_async(args, kwargs, **options)

    def election(self) -> Any:
        """Have one worker run the task. Every task is run by one, so this sends it, under its id if it has one."""
        return self.apply_async()

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """`delay` for coroutines."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """`apply_async` for coroutines."""
        args, kwargs, options = self._merge_to_send(args, kwargs, options)
        try:
            apply_async = self.type.aapply_async
        except KeyError:
            apply_async = partial(self.app.asend_task, self["task"])
        return await apply_async(args, kwargs, **options)

    def _merge_to_send(self, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        # Celery takes a route_name here and forgets it: only maps are routed by another name.
        args, kwargs, options = self._merge(args, kwargs, without_nones({**options, "route_name": None}))
        # A task by itself has nothing to undo when it fails.
        options.pop("undo", None)
        return args, kwargs, options

    def __invert__(self) -> Any:
        """Send the task and wait for what it returns: `~add.s(2, 2) == 4`."""
        return self.apply_async().get()

    # -- composing: the rules between primitives are theirs, see their classes

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        chain: Any = Signature.TYPES["chain"]
        if is_chain(other):
            return chain((self, *other.unchain_tasks()), app=self._app)
        if is_group(other):
            return chain(self, unrolled(other), app=self.app)
        return chain(self, other, app=self._app)

    def __ior__(self, other: Any) -> Any:
        # dict has its own `|=`, which would merge the two.
        return self | other

    # -- looking

    @cached_property
    def type(self) -> Any:
        """The task itself; KeyError when it is not registered in this app."""
        return self._type or self.app.tasks[self["task"]]

    @cached_property
    def app(self) -> Any:
        """The app it is bound to, or the current one."""
        return self._app or current_app

    @cached_property
    def AsyncResult(self) -> Any:
        """What makes the result object: the task's factory, or the app's for an unregistered task."""
        try:
            return self.type.AsyncResult
        except KeyError:
            return self.app.AsyncResult

    @cached_property
    def _apply_async(self) -> Callable[..., Any]:
        try:
            return self.type.apply_async  # type: ignore[no-any-return]
        except KeyError:
            return partial(self.app.send_task, self["task"])

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task  # type: ignore[no-any-return]

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Show the call it stands for, with these arguments put first: `add(2, 2)`."""
        args, kwargs, _ = self._merge(args, kwargs, force=True)
        return reprcall(self["task"], args, kwargs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return self.reprcall()

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[dict[str, Any]]]:
        return signature, (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        """Copy as a plain dict whose options are copied deeply and whose arguments, maybe lazy, are
        shared."""
        copy = dict(self)
        memo[id(self)] = copy
        copy["options"] = deepcopy(self.options, memo)
        return copy


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a signature of a task or name, of a dict, or as a copy of another signature."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, dict):
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


def maybe_signature(d: Any, app: Any = None, clone: bool = False) -> Any:
    """Make sure that `d` is a signature, or None; with `app`, bind it to that app."""
    if isinstance(d, Signature):
        d = d.clone() if clone else d
    elif isinstance(d, dict):
        d = Signature.from_dict(d)
    if d is not None and app is not None:
        d._app = app
    return d


def without_nones(options: dict[str, Any]) -> dict[str, Any]:
    """Drop the options that are None: they mean "not given"."""
    return {key: value for key, value in options.items() if value is not None}
