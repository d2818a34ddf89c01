"""`map`, `starmap` and `chunks`: many calls in few messages.

`xmap` and `xstarmap` are one task that calls another one for every item, in its own process. `chunks` cuts
the items up and is a group of such tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from pgtasks.canvas.groups import group
from pgtasks.canvas.signature import Signature, without_nones
from pgtasks.utils.functional import chunks as cut
from pgtasks.utils.functional import regen
from pgtasks.utils.text import truncate


class _basemap(Signature):
    _task_name: ClassVar[str]
    _call: ClassVar[str]

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        super().__init__(self._task_name, (), {"task": task, "it": regen(it)}, immutable=True, **options)

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Self:
        """Rebuild from the dict."""
        return cls(d["kwargs"]["task"], d["kwargs"]["it"], app=app, **d["options"])

    def _merge_to_send(self, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        _, kwargs, options = self._merge(options=without_nones(options))
        # Routed as the task it calls, and evaluated: an iterator cannot be sent.
        options = {"route_name": _name_of(kwargs["task"]), **options}
        return (), {**kwargs, "it": list(kwargs["it"])}, options

    def __repr__(self) -> str:
        items = truncate(repr(self.kwargs["it"]), 100)
        return f"[{self.kwargs['task'].task}({self._call}) for x in {items}]"


@Signature.register_type()
class xmap(_basemap):
    """`[task(x) for x in it]`, in one task."""

    _task_name = "celery.map"
    _call = "x"


@Signature.register_type()
class xstarmap(_basemap):
    """`[task(*x) for x in it]`, in one task."""

    _task_name = "celery.starmap"
    _call = "*x"


@Signature.register_type()
class chunks(Signature):
    """Calls of a task with the items of `it` as arguments, `n` calls per message."""

    def __init__(self, task: Any, it: Iterable[Any], n: int, **options: Any) -> None:
        super().__init__("celery.chunks", (), {"task": task, "it": regen(it), "n": n}, immutable=True, **options)

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Self:
        """Rebuild from the dict."""
        return cls(d["kwargs"]["task"], d["kwargs"]["it"], d["kwargs"]["n"], app=app, **d["options"])

    def __call__(self, **options: Any) -> Any:
        """Send the messages."""
        return self.apply_async(**options)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the messages in one statement; returns a `GroupResult` with a list for each."""
        options.setdefault("route_name", _name_of(self.kwargs.get("task")))
        return self.group().apply_async(args or (), kwargs or {}, **options)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """`apply_async` for coroutines."""
        options.setdefault("route_name", _name_of(self.kwargs.get("task")))
        return await self.group().aapply_async(args, kwargs, **options)

    def group(self) -> group:
        """The group of tasks that the chunks are."""
        task, items, n = self.kwargs["task"], self.kwargs["it"], self.kwargs["n"]
        return group((xstarmap(task, part, app=self._app) for part in cut(iter(items), n)), app=self._app)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Any = None) -> Any:
        """Make chunks and send them."""
        return cls(task, it, n, app=app)()


def _name_of(task: Any) -> str | None:
    name: str | None = getattr(task, "name", task)
    return name
