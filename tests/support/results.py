"""Results in every state, made by storing them: no task runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4


def ended(kit: SimpleNamespace, value: Any = None, state: str = "SUCCESS", **kwargs: Any) -> Any:
    """The result of a task that has ended."""
    result = kit.app.AsyncResult(str(uuid4()))
    kit.app.backend.store_result(result.id, value, state, **kwargs)
    return result


def unfinished(kit: SimpleNamespace) -> Any:
    return kit.app.AsyncResult(str(uuid4()))


def led_to(kit: SimpleNamespace, value: Any, *children: Any) -> Any:
    request = SimpleNamespace(children=children, hostname=None, group=None, parent_id=None)
    result = unfinished(kit)
    kit.app.backend.store_result(result.id, value, "SUCCESS", request=request)
    return result
