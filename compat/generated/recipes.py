"""Random canvases as JSON: `["chain", [["task", "ran", "t1"], ["task", "fails", "t2", [], {"how": "error"}]]]`.

A seed gives the same program every time. `programs/canvas/generated.py` cooks them; `smaller` gives what is tried
when one of them is to be shrunk.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import Any, TypeAlias

Recipe: TypeAlias = list[Any]
#: A recipe under `canvas`, and how it is sent: `args`, `options`.
Made: TypeAlias = dict[str, Any]

DEPTH = 4
#: Tasks in one program, about.
SIZE = 12


class Maker:
    """Makes the program of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.labels = count(1)
        self.left = SIZE
        # Of several that fail it is chance, in Celery, which one decides what the others come to.
        self.may_fail = True

    def program(self) -> Made:
        made: Made = {"canvas": self.canvas(self.random.choice((1, 2, 2, 3, 3, DEPTH)))}
        if self.random.random() < 0.25 and not _begins_with_group(made["canvas"]):
            made["args"] = ["x"]
        if self.random.random() < 0.1:
            made["options"] = self.random.choice(
                (
                    {"link": [self.callback()]},
                    {"link_error": [self.errback()]},
                    {"priority": 3},
                    {"stamped_headers": ["tenant"], "tenant": "a"},
                )
            )
        return made

    # -- composing

    def canvas(self, depth: int) -> Recipe:
        """Anything, nested at most `depth` deep."""
        if depth == 0 or self.left <= 0 or self.random.random() < 0.12:
            return self.task(depth)
        made = self.random.choices(
            (self.chain, self.group, self.chord, self.bar, self.series), (30, 22, 26, 20, 4)
        )[0](depth - 1)
        return self.modified(made) if self.random.random() < 0.2 else made

    def several(self, depth: int) -> list[Recipe]:
        return [self.canvas(depth) for _ in range(self.random.choice((0, 1, 2, 2, 2, 3)))]

    def chain(self, depth: int) -> Recipe:
        steps = self.several(depth) or [self.task(depth)]
        return [self.random.choice(("chain", "chain", "listed")), steps]

    def group(self, depth: int) -> Recipe:
        return [self.random.choice(("group", "group", "group", "lazy")), self.several(depth)]

    def chord(self, depth: int) -> Recipe:
        return [self.random.choice(("chord", "called")), self.several(depth), self.canvas(depth)]

    def bar(self, depth: int) -> Recipe:
        return ["bar", self.canvas(depth), self.canvas(depth)]

    def series(self, _: int) -> Recipe:
        """Many calls of one task in one, or in few."""
        self.left -= 1
        verb = self.random.choice(("map", "starmap", "chunks", "chunked"))
        return [verb, self.label(), 4, *((2,) if verb.startswith("chunk") else ())]

    def modified(self, sig: Recipe) -> Recipe:
        return self.random.choice(
            (
                lambda: ["link", sig, self.callback()],
                lambda: ["link", ["link", sig, self.callback()], self.callback()],
                lambda: ["on_error", sig, self.errback()],
                lambda: ["on_error", sig, self.errback()],
                lambda: ["stamp", sig, {"colour": "red"}],
                lambda: ["stamp", sig, {}],
                lambda: ["freeze", sig],
                lambda: ["immutable", sig],
                lambda: ["clone", sig, ["y"]],
                lambda: ["set", sig, {"priority": 5}],
                lambda: ["set", sig, {"ignore_result": True}],
                lambda: ["set", sig, {"countdown": 0.1}],
                lambda: ["json", sig],
            )
        )()

    # -- tasks

    def task(self, depth: int) -> Recipe:
        self.left -= 1
        kinds = ("ran", "none", "quiet", "again", "swapped", "sends", "fails")
        kind = self.random.choices(kinds, (60, 4, 3, 6, 7, 4, 12 if self.may_fail else 0))[0]
        made = self._task(kind, max(0, depth - 1))
        return self.modified(made) if self.random.random() < 0.15 else made

    def _task(self, kind: str, depth: int) -> Recipe:
        args = ["a"] if self.random.random() < 0.15 else []
        label = self.label()
        match kind:
            case "fails":
                self.may_fail = False
                more = {"how": self.random.choices(("error", "odd", "ignore", "reject"), (8, 3, 1, 1))[0]}
            case "again":
                gives_up = self.may_fail and self.random.random() < 0.3
                self.may_fail = self.may_fail and not gives_up
                more = {"times": self.random.choice((1, 2)), "give_up": gives_up}
            case "swapped":
                more = {"by": self.canvas(depth)}
            case "sends":
                more = {"what": self.canvas(depth)}
            case _:
                more = {}
        return ["task", kind, label, args, more]

    def callback(self) -> Recipe:
        return self.canvas(1) if self.random.random() < 0.3 else self._task("ran", 0)

    def errback(self) -> Recipe:
        return ["task", self.random.choice(("told", "caught")), self.label()]

    def label(self) -> str:
        return f"t{next(self.labels)}"


def _begins_with_group(recipe: Recipe) -> bool:
    """May a chain in it begin with a group? Celery does not hand arguments on to that."""
    verb = recipe[0]
    if verb in ("chain", "listed", "bar"):
        return not _is_task(recipe[1] if verb == "bar" else recipe[1][0])
    return any(map(_begins_with_group, _parts(recipe)))


def _is_task(recipe: Recipe) -> bool:
    return recipe[0] == "task"


def make(seed: int) -> Made:
    """The program of a seed."""
    return Maker(seed).program()


# -- smaller ones


def smaller(made: Made) -> Iterator[Made]:
    """Programs with one thing less, the boldest first."""
    for key in ("args", "options"):
        if key in made:
            yield {name: value for name, value in made.items() if name != key}
    for canvas in sorted(_smaller(made["canvas"]), key=size):
        yield {**made, "canvas": canvas}


def size(value: Any) -> int:
    """How much there is in a recipe."""
    if isinstance(value, dict):
        return 1 + sum(map(size, value.values()))
    return 1 + sum(map(size, value)) if isinstance(value, list) else 1


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    yield from (part for part in _parts(recipe) if part != recipe)
    if recipe[0] == "task" and recipe[1:2] != ["ran"] and recipe[1] not in ("told", "caught"):
        yield ["task", "ran", recipe[2]]
    if recipe[0] == "task" and len(recipe) > 3 and recipe[3]:
        yield [*recipe[:3], [], *recipe[4:]]
    for at, part in enumerate(recipe):
        if isinstance(part, dict):
            for key in ("by", "what"):
                if key in part:
                    for less in _smaller(part[key]):
                        yield [*recipe[:at], {**part, key: less}, *recipe[at + 1 :]]
        elif _is_recipe(part):
            yield from ([*recipe[:at], less, *recipe[at + 1 :]] for less in _smaller(part))
        elif isinstance(part, list):
            for inner, sub in enumerate(part):
                if _is_recipe(sub):
                    yield [*recipe[:at], [*part[:inner], *part[inner + 1 :]], *recipe[at + 1 :]]
                    for less in _smaller(sub):
                        yield [*recipe[:at], [*part[:inner], less, *part[inner + 1 :]], *recipe[at + 1 :]]


def _parts(recipe: Recipe) -> Iterator[Recipe]:
    """The recipes right below one."""
    for part in recipe[1:]:
        if _is_recipe(part):
            yield part
        elif isinstance(part, list):
            yield from (sub for sub in part if _is_recipe(sub))
        elif isinstance(part, dict):
            yield from (part[key] for key in ("by", "what") if key in part)


def _is_recipe(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and isinstance(value[0], str) and value[0] in VERBS


VERBS = frozenset(
    (
        "task chain listed group lazy chord called bar map starmap chunks chunked"
        " link on_error stamp freeze immutable clone set json"
    ).split()
)
