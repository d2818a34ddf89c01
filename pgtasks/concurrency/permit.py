"""What a worker's parent process allows its children, at any time and without a word."""

from __future__ import annotations

import mmap

__all__ = ("Permit",)


class Permit:
    """One byte that the parent writes and its children, forked later, read: yes or no."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def give(self, is_given: bool) -> None:
        self._byte[0] = is_given

    def __bool__(self) -> bool:
        return self._byte[0] == 1
