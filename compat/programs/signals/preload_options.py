"""Options of one's own: preload options tell a signal, worker options reach bootsteps"""

from celery import Celery, bootsteps, signals
from click import Option

from compat.harness import command_line, said, say, show, worker

app = Celery("preload_options")
app.user_options["preload"].add(Option(("-Z", "--template"), default="default", help="Configuration template to use."))
app.user_options["worker"].add(Option(("--enable-my-option",), is_flag=True, help="Enable custom option."))


@signals.user_preload_options.connect
def on_preload_parsed(options, **kwargs):
    say("preload", options["template"])


class MyBootstep(bootsteps.Step):
    def __init__(self, parent, enable_my_option=False, **options):
        super().__init__(parent, **options)
        say("option", enable_my_option)


app.steps["worker"].add(MyBootstep)


def main():
    with worker("--enable-my-option"):
        pass
    show(sorted(set(said())))
    status, out, _ = command_line("worker", "--help")
    print(status, "--enable-my-option" in out, "Enable custom option." in out)
