"""Mistakes on the command line end with status 2 and a word of explanation."""

from celery import Celery

from compat.harness import command_line

app = Celery("mistakes")


def tell(*arguments, app=None):
    status, out, err = command_line(*arguments, app=app)
    print("$", "-A", app or "mistakes", " ".join(arguments), "->", status, "said why" if (out + err).strip() else "")


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
