"""Tasks are named after module and function unless told otherwise; the registry also holds the built-in ones."""

import warnings

from celery import Celery

from compat.harness import outcome, show

app = Celery("task_names")


@app.task
def automatic():
    pass


@app.task(name="shop.explicit")
def explicit():
    pass


@app.task(name="task_names.first_wins")
def first():
    return "first"


def main():
    print(automatic.name, explicit.name, automatic.__name__)
    print(app.main, app.gen_task_name("f", "shop.tasks"), app.gen_task_name("f", "__main__"))
    show(sorted(app.tasks))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        @app.task(name="task_names.first_wins")
        def second():
            return "second"

        print(second())
    print([w.category.__name__ for w in caught])
    print(app.tasks["task_names.first_wins"]())
    print(outcome(lambda: app.tasks["task_names.nobody"]))
    print("task_names.automatic" in app.tasks, app.tasks.get("nobody"))
    print(repr(automatic), repr(app))
    print(sorted(app.tasks.regular()) == sorted(app.tasks), app.tasks.periodic())
    app.tasks.unregister("shop.explicit")
    print("shop.explicit" in app.tasks, outcome(app.tasks.unregister, "shop.explicit"))
