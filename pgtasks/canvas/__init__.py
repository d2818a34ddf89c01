"""Composing tasks: signatures and what is made of them.

A signature is a task call that is not made yet. `|` strings signatures together; `chain`, `group` and `chord`
say the same in words; `chunks`, `xmap` and `xstarmap` make few messages of many calls. When a canvas is sent,
all of it is written at once, as tasks and the edges between them (`pgtasks.canvas.plan`), so that no crash
can lose its rest.
"""

from pgtasks.canvas.chains import _chain, chain
from pgtasks.canvas.chords import _chord, chord
from pgtasks.canvas.groups import group
from pgtasks.canvas.maps import _basemap, chunks, xmap, xstarmap
from pgtasks.canvas.signature import Signature, maybe_signature, signature
from pgtasks.canvas.stamping import StampingVisitor

subtask = signature
maybe_subtask = maybe_signature

__all__ = (
    "Signature",
    "StampingVisitor",
    "_basemap",
    "_chain",
    "_chord",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
)
