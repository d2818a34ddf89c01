"""Several callbacks of one task, groups among them: what they are called with, and what their task shows of them."""

from celery import Celery, chain, group
from celery.result import GroupResult

from compat.harness import worker

app = Celery("callbacks")


@app.task(bind=True)
def ran(self, *args):
    return [*args, "in a group" if self.request.group else "alone"]


def child(result):
    if isinstance(result, GroupResult):
        return [child(member) for member in result.results]
    return result.get(timeout=10)


def made(link):
    if isinstance(link, list):
        return chain(ran.s(label) for label in link)
    return group(ran.s(label) for label in link) if isinstance(link, tuple) else ran.s(link)


def main():
    with worker():
        for text, links in {
            "one": ["a"],
            "two": ["a", "b"],
            "a group": [("a", "b")],
            "a group between others": ["a", ("b", "c"), "d"],
            "two groups": [("a", "b"), ("c", "d")],
            "a chain and a task": [["a", "b"], "c"],
            "a chain and a group": [["a", "b"], ("c", "d")],
        }.items():
            result = ran.apply_async(("first",), link=[made(link) for link in links])
            print(f"{text}:", result.get(timeout=10))
            for each in result.children:
                print("  child:", child(each))
        print("in a chain:")
        first = ran.s("first")
        first.link(group(ran.s("a"), ran.s("b")))
        result = chain(first, ran.s("next")).delay()
        print("  end:", result.get(timeout=10))
        for each in result.parent.children:
            print("  child:", child(each))


if __name__ == "__main__":
    main()
