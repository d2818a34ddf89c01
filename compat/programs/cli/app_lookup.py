"""-A finds the app in a module, an attribute, a package or its celery module; a worker may have options of the app's own."""

from celery import Celery
from click import Option

from compat.harness import command_line

app = another = Celery("app_lookup")


app.user_options["worker"].add(Option(("--my-option",), is_flag=True, default=False, help="My own."))


@app.task
def add(a, b):
    return a + b


def main():
    for name in (
        "app_lookup",
        "app_lookup:app",
        "app_lookup:another",
        "app_lookup.app",
        "package_of_app",
        "no_such_module",
    ):
        print(name, command_line("call", "app_lookup.add", "-a", "[1, 2]", app=name)[0])
    print("--my-option" in command_line("worker", "--help")[1])
