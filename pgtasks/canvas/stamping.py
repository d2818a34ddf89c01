"""Stamps: custom headers put on every task of a canvas, so that they can be found, counted or revoked
together.

`sig.stamp(visitor, **headers)` walks the canvas from the outside in. At each primitive the visitor may return
more headers, which everything inside inherits. They end up in the tasks' options beside `stamped_headers`,
the list of their names: `{"customer": 7, "stamped_headers": ["customer"]}`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

NAMES = "stamped_headers"


class StampingVisitor(ABC):
    """What to stamp: override the methods of the primitives of interest.

    Every method gets the headers collected so far. Those called at a start, and those for single signatures,
    return the headers to add; a returned `stamped_headers` limits which of them count as stamps.
    """

    @abstractmethod
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        """Stamp one task."""

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        """Stamp all members of a group."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        """Called when a group's members have been stamped."""
        return None

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        """Stamp all steps of a chain."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        """Called when a chain's steps have been stamped."""
        return None

    def on_chord_header_start(self, sig: Any, **header: Any) -> dict[str, Any]:
        """Stamp the header of a chord, by default as the group it is."""
        if getattr(sig.tasks, "kind", None) != "group":
            sig.tasks = sig.TYPES["group"](sig.tasks)
        return self.on_group_start(sig.tasks, **header)

    def on_chord_header_end(self, sig: Any, **header: Any) -> None:
        """Called when a chord's header has been stamped."""
        self.on_group_end(sig.tasks, **header)

    def on_chord_body(self, sig: Any, **header: Any) -> dict[str, Any]:
        """Stamp the body of a chord."""
        return {}

    def on_callback(self, callback: Any, **header: Any) -> dict[str, Any]:
        """Stamp a callback (`link`)."""
        return {}

    def on_errback(self, errback: Any, **header: Any) -> dict[str, Any]:
        """Stamp an errback (`link_error`)."""
        return {}


def collect_stamps(
    headers: Mapping[str, Any],
    found: dict[str, Any] | None,
    own: Mapping[str, Any] | None,
    *,
    append: bool,
) -> dict[str, Any]:
    """Merge inherited headers, those a visitor found, and the stamps already in a signature's own options.

    The visitor wins over what was inherited. With `append`, values met under one name are gathered in a list
    instead. The order of `stamped_headers` is that of first appearance.
    """
    stamps = dict(headers)
    stamps.setdefault(NAMES, list(stamps))
    if found is not None:
        found.setdefault(NAMES, list(found))
        merge_dictionaries(stamps, found, append)
        stamps[NAMES] = unique(stamps[NAMES])
    if own is not None:
        stamps[NAMES] = unique([*stamps[NAMES], *own.get(NAMES, ())])
        merge_dictionaries(stamps, {key: own[key] for key in own if key in stamps[NAMES]}, append)
        stamps[NAMES] = unique(stamps[NAMES])
    return stamps


def unique(names: Iterable[Any]) -> list[Any]:
    """Drop repeated names, keeping the order."""
    return list(dict.fromkeys(names))


def merge_dictionaries(into: dict[str, Any], other: Mapping[str, Any], aggregate_duplicates: bool = True) -> None:
    """Merge `other` into `into`, recursively; `other` wins unless duplicates are aggregated.

    Lists under one key are always joined. Aggregating makes a list of both values.
    """
    for key, value in (other or {}).items():
        if key not in into:
            into[key] = value
        elif isinstance(into[key], dict):
            into[key] = dict(into[key])
            merge_dictionaries(into[key], value, aggregate_duplicates)
        else:
            into[key] = _merged(into[key], value, aggregate_duplicates)


def _merged(old: Any, new: Any, aggregate: bool) -> Any:
    if aggregate and isinstance(old, (int, float, str)):
        old = [old]
    if isinstance(old, list) and isinstance(new, list):
        return [*old, *new]
    if not aggregate:
        return old
    return [*(old or ()), new]
