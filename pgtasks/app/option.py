"""The declaration of a setting: default, type, names, and whether it has an effect."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from pgtasks.utils.serialization import strtobool

__all__ = ("Effect", "Namespace", "Option", "flatten")


class Effect(StrEnum):
    """What pgtasks does with a setting."""

    HONOURED = "honoured"
    PENDING = "not yet"  # accepted and readable; what it asks for is not built yet
    NONE = "no effect"  # accepted and readable, so that a project's settings need no editing
    REFUSED = "refused"  # ImproperlyConfigured when set: ignoring it would be unsafe


def _as_list(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else list(value)


class Option:
    """One setting. `doc` says what it does; for one without effect or refused, why that is so."""

    #: How text, from an environment or a command line, becomes a value.
    typemap: Mapping[str, Callable[[Any], Any]] = {
        "string": str,
        "int": int,
        "float": float,
        "any": lambda value: value,
        "bool": strtobool,
        "dict": dict,
        "list": _as_list,
        "tuple": lambda value: tuple(_as_list(value)),
        "bytes": lambda value: value.encode() if isinstance(value, str) else bytes(value),
    }

    def __init__(
        self,
        default: Any = None,
        type: str = "string",
        doc: str = "",
        *,
        old: str = "",
        effect: Effect = Effect.HONOURED,
        own: bool = False,
        deprecated: str = "",
    ) -> None:
        self.default = default
        self.type = type
        self.doc = doc
        self.old = old
        self.effect = effect
        self.own = own
        self.deprecated = deprecated

    def to_python(self, value: Any) -> Any:
        """Convert a value given as text."""
        return self.typemap[self.type](value)

    def __repr__(self) -> str:
        return f"<Option: type->{self.type} default->{self.default!r}>"


def Namespace(old: str = "", **options: Option) -> dict[str, Option]:
    """Group settings; `old` is the pattern of their old-style names, as in `CELERYD_{}`."""
    for key, option in options.items():
        if old and not option.old:
            option.old = old.format(key.upper())
    return options


def flatten(tree: Mapping[str, Any], root: str = "") -> Iterator[tuple[str, Option]]:
    """Yield the settings of a tree of namespaces, by full name."""
    for key, item in tree.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{root}{key}_")
        else:
            yield root + key, item
