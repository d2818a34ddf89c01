"""Canvases as recipes that Celery and pgtasks both can follow, and what is compared of the outcomes.

A recipe is a nested tuple: `("chain", [("s", "t.a", (1,)), ...])`. `Library` follows it with one of the two
libraries. Ids are random, so they are compared by the order of their first appearance.
"""

import json
import re
import warnings
from types import SimpleNamespace
from uuid import uuid4

from hypothesis import strategies as st

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ADDRESS = re.compile(r"0x[0-9a-f]+")


class Library:
    """One of the two libraries, following recipes."""

    def __init__(self, canvas, app):
        self.canvas = canvas
        self.app = app

    def cook(self, recipe):
        """Build the canvas of a recipe."""
        verb, *parts = recipe
        return getattr(self, verb)(*parts)

    def _all(self, recipes):
        return [self.cook(recipe) for recipe in recipes]

    def s(self, name, args=(), immutable=False, options=()):
        return self.canvas.Signature(name, args, {}, dict(options), immutable=immutable, app=self.app)

    def chain(self, steps):
        return self.canvas.chain(*self._all(steps))

    def chain_of_list(self, steps):
        return self.canvas.chain(self._all(steps))

    def raw_chain(self, steps):
        return self.canvas._chain(*self._all(steps), app=self.app)

    def group(self, members):
        return self.canvas.group(self._all(members), app=self.app)

    def group_of_args(self, members):
        return self.canvas.group(*self._all(members), app=self.app)

    def lazy_group(self, members):
        return self.canvas.group((self.cook(member) for member in members), app=self.app)

    def chord(self, header, body):
        return self.canvas.chord(self._all(header), self.cook(body), app=self.app)

    def bar(self, left, right):
        return self.cook(left) | self.cook(right)

    def link(self, sig, callback):
        sig = self.cook(sig)
        sig.link(self.cook(callback))
        return sig

    def link_error(self, sig, errback):
        return self.cook(sig).on_error(self.cook(errback))

    def set(self, sig, options):
        return self.cook(sig).set(**dict(options))

    def clone(self, sig, args):
        return self.cook(sig).clone(args)

    def round_trip(self, sig):
        return self.canvas.maybe_signature(json.loads(json.dumps(self.cook(sig))), app=self.app)

    def stamp(self, sig, append):
        sig = self.cook(sig)
        sig.stamp(make_visitor(self.canvas), append_stamps=append, colour="red")
        return sig

    def freeze(self, sig):
        sig = self.cook(sig)
        sig.freeze()
        return sig


def make_visitor(canvas):
    class Visitor(canvas.StampingVisitor):
        def on_signature(self, sig, **headers):
            return {"on_signature": sig.task}

        def on_group_start(self, group, **headers):
            return {"in_group": True}

        def on_chain_start(self, chain, **headers):
            return {"in_chain": 1, "stamped_headers": ["in_chain"]}

        def on_chord_body(self, sig, **header):
            return {"body": "x"}

        def on_callback(self, callback, **header):
            return {"callback": 1}

        def on_errback(self, errback, **header):
            return {"errback": 1}

    return Visitor()


def outcome(library, recipe):
    """What following a recipe comes to: type, JSON and repr of the canvas, or the type of the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sig = library.cook(recipe)
            # A generator may be read, and fail, as late as here.
            found = in_order(canonical(json.loads(json.dumps(sig))))
        except (TypeError, ValueError, LookupError, AttributeError) as exc:
            return type(exc).__name__
    # How much a repr shows of a generator depends on how much was read of it.
    return type(sig).__name__, found, "" if "lazy_group" in str(recipe) else shown(sig)


def shown(sig):
    """The repr, as far as it can be compared."""
    if '"body": {"args": [], "immutable": false, "kwargs": {"tasks": []}' in in_order(sig):
        # Celery cannot show a chord whose body is an empty chain.
        return ""
    # How often a header was copied decides if it is a tuple or a list.
    return ADDRESS.sub("0x", repr(sig)).translate(str.maketrans("()", "[]"))


def canonical(value):
    """Sort the names of stamps, for Celery keeps them in a set, and drop those that leaked in from another
    task."""
    if isinstance(value, dict):
        return {
            key: sorted({name for name in item if name in value}) if key == "stamped_headers" else canonical(item)
            for key, item in value.items()
        }
    return [canonical(item) for item in value] if isinstance(value, list) else value


def in_order(value):
    """Replace every id by the number of its first appearance; what is not JSON becomes its text."""
    seen = {}
    text = json.dumps(value, default=str, sort_keys=True)
    return UUID.sub(lambda found: f"id-{seen.setdefault(found[0], len(seen))}", text)


# -- an app for signatures that are not sent


class Result(SimpleNamespace):
    """Knows its id and its parent."""

    def __init__(self, id, parent=None, **_):
        super().__init__(id=id, parent=parent)

    def as_tuple(self):
        return (self.id, self.parent and self.parent.as_tuple()), None


class Group(Result):
    """Knows its members too."""

    def __init__(self, id, results, parent=None):
        super().__init__(id, parent)
        self.results = list(results)

    def as_tuple(self):
        return (self.id, self.parent and self.parent.as_tuple()), [r.as_tuple() for r in self.results]


class App:
    """What canvases ask of an app; remembers the plans it is given."""

    AsyncResult = Result
    GroupResult = Group
    thread_oid = "00000000-0000-0000-0000-000000000000"
    sends_plainly = True

    def __init__(self, **conf):
        defaults = {
            "task_always_eager": False,
            "task_allow_error_cb_on_chord_header": False,
            "task_inherit_parent_priority": False,
        }
        self.conf = SimpleNamespace(**{**defaults, **conf})
        self.tasks = {}
        self.plans = []
        self.sent = []

    def send_group(self, group, options):
        """Every canvas is planned here."""

    async def asend_group(self, group, options):
        """Every canvas is planned here."""

    def enqueue_plan(self, plan, connection=None):
        self.plans.append(plan)

    def send_task(self, name, args, kwargs, **options):
        self.sent.append((name, args, kwargs, options))
        return Result(options.get("task_id") or str(uuid4()))


# -- strategies


names = st.sampled_from(["t.a", "t.b", "other.c", "d"])
arguments = st.lists(st.integers(0, 9), max_size=2).map(tuple)
option_sets = st.sampled_from([(), (("queue", "q"),), (("countdown", 3), ("priority", 5))])
tasks = st.tuples(st.just("s"), names, arguments, st.booleans(), option_sets)


def canvases(*, lazily=True, linked=True, max_leaves=10):
    """Recipes of nested canvases."""

    def deeper(inner):
        several = st.lists(inner, max_size=3)
        verbs = ["chain", "chain_of_list", "raw_chain", "group", "group_of_args"]
        verbs += ["lazy_group"] if lazily else []
        kinds = [
            st.tuples(st.sampled_from(verbs), several),
            st.tuples(st.just("chord"), several, inner),
            st.tuples(st.just("bar"), inner, inner),
            st.tuples(st.just("bar"), inner, inner),
        ]
        if linked:
            kinds += [
                st.tuples(st.sampled_from(["link", "link_error"]), inner, tasks),
                st.tuples(st.just("set"), inner, option_sets),
                st.tuples(st.just("clone"), inner, arguments),
            ]
        return st.one_of(kinds)

    return st.recursive(tasks, deeper, max_leaves=max_leaves)
