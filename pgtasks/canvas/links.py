"""Callbacks and errbacks of a chord as a whole, which belong to its body.

`link` and `link_error` given to a chord, when it is sent or as its options, reach the body in a copy, so that
the caller's signatures stay as they are.
"""

from __future__ import annotations

from typing import Any

from kombu.utils.functional import maybe_list

from pgtasks.canvas.kinds import is_chain, is_chord, is_group
from pgtasks.canvas.signature import maybe_signature


def with_callbacks(body: Any, link: Any, link_error: Any) -> Any:
    """Return the body to run: a copy with these callbacks and errbacks, or the same one when there are
    none."""
    callbacks, errbacks = maybe_list(link) or [], maybe_list(link_error) or []
    if callbacks or errbacks:
        body = clone_with_members(body)
    for callback in callbacks:
        callback = clone_with_members(maybe_signature(callback, app=body._app))
        if is_group(body) and not body.tasks:
            body.append_to_list_option("link", callback)
        else:
            body.link(callback)
    for errback in errbacks:
        if is_group(body):
            _link_error_to_members(body, maybe_signature(errback, app=body._app))
        else:
            body.append_to_list_option("link_error", errback)
    return body


def clone_with_members(sig: Any) -> Any:
    """Copy a signature with everything in it that linking would change: `clone` shares a group's members."""
    sig = maybe_signature(sig, clone=True)
    if is_group(sig) or is_chain(sig):
        sig.tasks = [clone_with_members(task) for task in sig.tasks]
    elif is_chord(sig):
        header = sig.tasks
        sig.tasks = clone_with_members(header) if is_group(header) else [clone_with_members(task) for task in header]
        sig.body = clone_with_members(sig.body)
    return sig


def _link_error_to_members(sig: Any, errback: Any, outermost: bool = True) -> None:
    """Link an errback to the tasks of a group and to the bodies, not the headers, of chords in it.

    A group with errbacks of its own gets it there: they replace those of its members when it runs. A group
    within a group loses its options by then.
    """
    if is_chord(sig):
        _link_error_to_members(sig.body, errback)
    elif not is_group(sig):
        sig.link_error(errback.clone())
    elif outermost and sig.options.get("link_error") is not None:
        sig.append_to_list_option("link_error", errback.clone())
    else:
        for task in sig.tasks:
            _link_error_to_members(task, errback, outermost=False)
