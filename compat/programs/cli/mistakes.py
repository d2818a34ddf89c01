"""What the command says to mistakes: unknown apps, commands and options; and its version."""

from celery import Celery

from compat.harness import command_line

app = Celery("mistakes")


def tell(*arguments, app=None):
    status, out, err = command_line(*arguments, app=app)
    last = [line.strip() for line in (out + err).splitlines() if line.strip()][-1:]
    print("$", "-A", app or "mistakes", " ".join(arguments), "->", status, last)


def main():
    tell("status", app="no_such_module_here")
    tell("status", app="json")
    tell("status", app="mistakes:nothing")
    tell("no_such_command")
    tell("worker", "--no-such-option")
    tell("worker", "-c", "many")
    tell("worker", "-A", "mistakes")
    tell("call")
    tell("call", "mistakes.add", "-a", "not json")
    tell("worker", "-P", "no-such-pool")
    tell("worker", "-Q", "a", "-l", "LOUD")
    print(command_line("--help")[0], command_line("worker", "--help")[0])
