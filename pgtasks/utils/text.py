"""Text for people, by Celery's names."""

import io
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pprint import pformat
from re import Match, Pattern
from textwrap import fill
from typing import Any

__all__ = (
    "WhateverIO",
    "abbr",
    "abbrtask",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "mask_url",
    "match_case",
    "pluralize",
    "pretty",
    "remove_repeating",
    "remove_repeating_from_task",
    "simple_format",
    "str_to_list",
    "truncate",
)

RE_FORMAT = re.compile(r"%([%\w])")


def str_to_list(s: Any) -> Any:
    """Split text at commas; anything else passes through."""
    return s.split(",") if isinstance(s, str) else s


def dedent_initial(s: str, n: int = 4) -> str:
    """Remove the first `n` characters if they are spaces."""
    return s[n:] if s[:n] == " " * n else s


def dedent(s: str, sep: str = "\n") -> str:
    """Remove four spaces from the start of every line."""
    return sep.join(map(dedent_initial, s.splitlines()))


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """Put `indent` spaces before every line."""
    return sep.join(" " * indent + line for line in t.split(sep))


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """Wrap every paragraph at `width`."""
    return sep.join(fill(paragraph, width) for paragraph in s.split(sep))


def join(items: Iterable[str], sep: str = "\n") -> str:
    """Join what is not empty."""
    return sep.join(item for item in items if item)


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """Make sure that `s` holds `sep` at least `n` times, adding to its end."""
    return s + sep * (n - s.count(sep))


ensure_newlines = partial(ensure_sep, "\n")


def abbr(S: str | None, max: int, ellipsis: str | bool = "...") -> str:
    """Cut text to `max` characters, the ellipsis included."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    return S[: max - len(ellipsis)] + ellipsis if isinstance(ellipsis, str) and ellipsis else S[:max]


def abbrtask(S: str | None, max: int) -> str:
    """Cut a task's name to `max` characters, at the expense of its module: `proj.t[.]add`."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    module, _, name = S.rpartition(".")
    return f"{abbr(module, max - len(name) - 3, False)}[.]{name}"


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """Cut text to `maxlen` characters, at a space if there is one, and add `suffix`."""
    if maxlen and len(s) >= maxlen:
        return s[:maxlen].rsplit(" ", 1)[0] + suffix
    return s


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """Add an s, except for one."""
    return text if n == 1 else text + suffix


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """Format a value for the console; containers start on a line of their own."""
    if isinstance(value, dict):
        return f"{sep} {pformat(value, 4, nl_width)[1:]}"
    if isinstance(value, tuple):
        return f"{sep}{' ' * 4}{pformat(value, width=nl_width, **kw)}"
    return pformat(value, width=width, **kw)


def match_case(s: str, other: str) -> str:
    """Write `s` in upper case if `other` is, else in lower case."""
    return s.upper() if other.isupper() else s.lower()


def simple_format(s: str, keys: Mapping[str, Any], pattern: Pattern[str] = RE_FORMAT, expand: str = r"\1") -> str:
    """Replace every `%x` by `keys["x"]`, called if it can be; `%%` is a percent sign.

    Raises ValueError for an unknown key.
    """
    keys = {"%": "%", **keys}

    def resolve(match: Match[str]) -> str:
        key = match.expand(expand)
        if key not in keys:
            raise ValueError(
                f"Unknown format %{key} in string {s!r}. Did you forget to escape the percent sign "
                f"(use '%%{key}'), or did you escape it and the value was expanded twice?"
            )
        value: Callable[[], str] | str = keys[key]
        return value() if callable(value) else value

    return pattern.sub(resolve, s) if s else s


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """Name the task's module once only: `tasks.add(2) | tasks.mul(3)` becomes `tasks.add(2) | mul(3)`."""
    module = str(task_name).rpartition(".")[0]
    return remove_repeating(f"{module}.", s) if module else s


def remove_repeating(substr: str, s: str) -> str:
    """Remove every `substr` but the first, where it starts a name (`app.` stays in `webapp.`)."""
    head, found, rest = s.partition(substr)
    return head + found + re.sub(rf"(?<![\w.-]){re.escape(substr)}", "", rest)


def mask_url(url: str, mask: str = "**") -> str:
    """Return a URL, or a list of libpq keywords, with its passwords replaced by `mask`."""
    masked = re.sub(r"(://[^:/?#@]*:)[^/?#]*@", rf"\g<1>{mask}@", url)
    masked = re.sub(r"([?&](?:ssl)?password=)[^&#]*", rf"\g<1>{mask}", masked, flags=re.IGNORECASE)
    if "://" in masked:
        return masked
    keyword = r"(\b(?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)"
    return re.sub(keyword, rf"\g<1>{mask}", masked, flags=re.IGNORECASE)


class WhateverIO(io.StringIO):
    """A StringIO that takes bytes or text."""

    def __init__(self, v: bytes | str | None = None, *a: Any, **kw: Any) -> None:
        super().__init__(v.decode() if isinstance(v, bytes) else v, *a, **kw)

    def write(self, data: bytes | str) -> int:
        return super().write(data.decode() if isinstance(data, bytes) else data)
