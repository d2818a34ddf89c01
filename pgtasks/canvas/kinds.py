"""Which primitive a signature is.

Tested by kind, not by class, so that the modules of the classes need not import each other.
"""

from __future__ import annotations

from typing import Any, TypeGuard


def is_chain(sig: Any) -> TypeGuard[Any]:
    """Is it a chain?"""
    return getattr(sig, "kind", None) == "chain"


def is_group(sig: Any) -> TypeGuard[Any]:
    """Is it a group?"""
    return getattr(sig, "kind", None) == "group"


def is_chord(sig: Any) -> TypeGuard[Any]:
    """Is it a chord?"""
    return getattr(sig, "kind", None) == "chord"


def is_empty_group(sig: Any) -> bool:
    """Is it a group without members?"""
    return is_group(sig) and isinstance(sig.tasks, (list, tuple)) and not sig.tasks


def is_empty_chain(sig: Any) -> bool:
    """Is it a chain without steps?"""
    return is_chain(sig) and not sig.tasks


def unrolled(group: Any) -> Any:
    """The only member of a group of one, or else the group."""
    return group.tasks[0] if len(group.tasks) == 1 else group
