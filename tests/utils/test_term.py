"""Coloured text, compared with Celery's."""

from __future__ import annotations

from typing import Any

import celery.utils.term
import pytest

from pgtasks.utils.term import colored

STYLES = (
    *("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"),
    *("ired", "igreen", "iyellow", "iblue", "imagenta", "icyan", "iwhite"),
    *("bold", "underline", "blink", "reverse", "bright", "reset"),
)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("style", STYLES)
def test_every_style_gives_the_codes_of_celery_also_nested(style: str, enabled: bool) -> None:
    def rendered(kind: Any) -> list[Any]:
        c = kind(enabled=enabled)
        text = getattr(c, style)("grün ", c.bold("fett"), 3)
        return [str(text), repr(text), text.no_color(), text.embed(), text + "!"]

    assert rendered(colored) == rendered(celery.utils.term.colored)


def test_colours_are_known_by_name() -> None:
    assert list(colored().names) == list(celery.utils.term.colored().names)
    assert str(colored().names["red"]("x")) == str(colored().red("x"))
