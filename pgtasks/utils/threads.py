"""A stack that every thread, greenlet and coroutine sees as its own.

`LocalStack` keeps an immutable tuple in a `ContextVar`. Threads start empty; a coroutine started inside a
task sees the frames of its parent but cannot disturb them, because a push replaces the tuple instead of
changing it. That is what makes `current_task` and `task.request` right in the asyncio pool, where a
thread-local would mix the requests of interleaved tasks.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Generic, TypeVar

__all__ = ("LocalStack",)

T = TypeVar("T")


class LocalStack(Generic[T]):
    """A stack whose content is private to the running context."""

    __slots__ = ("_frames",)

    def __init__(self) -> None:
        self._frames: ContextVar[tuple[T, ...]] = ContextVar("pgtasks.frames", default=())

    def push(self, frame: T) -> None:
        frames = self._frames
        frames.set((*frames.get(), frame))

    def pop(self) -> T | None:
        """Remove and return the topmost frame; None when there is none."""
        frames = self._frames.get()
        if not frames:
            return None
        self._frames.set(frames[:-1])
        return frames[-1]

    @property
    def top(self) -> T | None:
        frames = self._frames.get()
        return frames[-1] if frames else None

    @property
    def stack(self) -> tuple[T, ...]:
        """All frames, oldest first."""
        return self._frames.get()

    def __len__(self) -> int:
        return len(self._frames.get())
