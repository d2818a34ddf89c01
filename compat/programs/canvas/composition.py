"""What the pipe makes of tasks, groups, chains and chords: flattening, upgrading, dropping."""

import json

from celery import Celery, chain, chord, group

app = Celery("composition")


@app.task
def t(*args):
    return args


def shape(signature):
    if signature is None:
        return None
    kind = signature.get("subtask_type")
    if kind == "chain":
        return ["chain", *map(shape, signature["kwargs"]["tasks"])]
    if kind == "group":
        return ["group", *map(shape, signature["kwargs"]["tasks"])]
    if kind == "chord":
        return [
            "chord",
            shape(signature["kwargs"]["header"])
            if isinstance(signature["kwargs"]["header"], dict)
            else list(map(shape, signature["kwargs"]["header"])),
            shape(signature["kwargs"]["body"]),
        ]
    return signature["args"][0]


def main():
    names = {letter: t.s(letter) for letter in "abcde"}
    for text in (
        "a | b",
        "a | b | c",
        "chain(a, b) | chain(c, d)",
        "chain(chain(a, b), c)",
        "a | group(b, c)",
        "group(a, b) | c",
        "group(a) | b",
        "a | group([b])",
        "a | group(b, c) | d",
        "a | group(b, c) | d | e",
        "group(a, b) | group(c, d)",
        "a | group(b, c) | group(d, e)",
        "chord([a, b], c)",
        "chord([a, b], c) | d",
        "chord([a, b], c) | group(d, e)",
        "chord([a], b) | chord([c], d)",
        "a | chord([b, c], d)",
        "a | chord([b, c], d) | e",
        "group(group(a, b), c)",
        "group(chain(a, b), c) | d",
        "chain(a)",
        "chain([a, b])",
        "a | group()",
        "chain(a, group(), b)",
        "group() | a",
        "chain(group(a, b), group(c, d))",
        "chain(group(a, b), c, group(d, e))",
        "chord(group(a, b), c)",
        "chord(chain(a, b), c)",
        "chord([chord([a], b)], c)",
        "group(group(a), group(group(b)))",
        "group([a, b])",
        "group(x for x in [a, b])",
        "chain(a, b).clone()",
        "group(a, b).clone()",
        "group(a, b) | chain(c, d)",
        "chain(a, chain(b, group(c, d)))",
    ):
        made = eval(text, globals(), names)
        print(f"{text:50} {type(made).__name__:10} {json.dumps(shape(made))}")
    print(chain(), chain()(), group(), len(group(t.s(), t.s())), bool(group()))
    print(t.s().__or__(5))
