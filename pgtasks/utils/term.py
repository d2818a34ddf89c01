"""Text in colour, for terminals that understand ANSI escape codes.

`c = colored(); c.red("stop ", c.bold("now"))` nests; `str()` gives it with the codes, `.no_color()`
without. With `enabled=False` both are the same. Names and output are those of `celery.utils.term`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ("colored",)

RESET_SEQ = "\033[0m"

_COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


def _op(code: str) -> str:
    return f"\033[{code}m"


def _style(op: str) -> Callable[..., colored]:
    def styled(self: colored, *s: object) -> colored:
        return self.node(s, op)

    return styled


class colored:
    """A piece of text, its style, and the pieces nested in it."""

    black, red, green, yellow, blue, magenta, cyan, white = (_style(_op(f"1;{30 + n}")) for n in range(8))
    iblack, ired, igreen, iyellow, iblue, imagenta, icyan, iwhite = (_style(_op(f"1;{40 + n}")) for n in range(8))
    bold, underline, blink, reverse, bright = (_style(_op(str(n))) for n in (1, 4, 5, 7, 8))

    def __init__(self, *s: object, enabled: bool = True, op: str = "") -> None:
        self.s = s
        self.enabled = enabled
        self.op = op

    @property
    def names(self) -> dict[str, Callable[..., colored]]:
        """The foreground colours by name."""
        return {name: getattr(self, name) for name in _COLORS}

    def node(self, s: tuple[object, ...], op: str) -> colored:
        """Make a piece in the style of the escape sequence `op`."""
        return type(self)(*s, enabled=self.enabled, op=op)

    def reset(self, *s: object) -> colored:
        return self.node(s or ("",), RESET_SEQ)

    def embed(self) -> str:
        """The text with its codes, without the final reset."""
        return (self.op if self.enabled else "") + "".join(str(part) for part in self.s)

    def no_color(self) -> str:
        """The text alone."""
        return "".join(part.no_color() if isinstance(part, colored) else str(part) for part in self.s)

    def __str__(self) -> str:
        return self.embed() + (RESET_SEQ if self.enabled else "")

    def __repr__(self) -> str:
        return repr(self.no_color())

    def __add__(self, other: Any) -> str:
        return f"{self}{other}"
