"""control changes running workers: limits, queues, pool, events, shutdown."""

import time

from celery import Celery

from compat.harness import outcome, worker

app = Celery("remote_control")


@app.task
def sleep(seconds=0):
    time.sleep(seconds)
    return "slept"


def main():
    control = app.control
    with worker("-n", "w@h") as running:

        def tell(what, replies):
            print(f"{what:20} {replies}")

        tell("rate_limit", control.rate_limit("remote_control.sleep", "100/s", reply=True, timeout=2))
        tell("rate_limit 0", control.rate_limit("remote_control.sleep", 0, reply=True, timeout=2))
        tell("bad rate", control.rate_limit("remote_control.sleep", "x/y", reply=True, timeout=2))
        tell("unknown task", control.rate_limit("no.such", "1/s", reply=True, timeout=2))
        tell("time_limit", control.time_limit("remote_control.sleep", soft=1, hard=30, reply=True, timeout=2))
        print(outcome(sleep.delay(3).get, timeout=15))
        tell("time_limit", control.time_limit("no.such", hard=30, reply=True, timeout=2))
        tell("time_limit off", control.time_limit("remote_control.sleep", reply=True, timeout=2))
        tell("add_consumer", control.add_consumer("extra", reply=True, timeout=2))
        tell("add_consumer again", control.add_consumer("extra", reply=True, timeout=2))
        print(sleep.apply_async(queue="extra").get(timeout=10))
        tell("cancel_consumer", control.cancel_consumer("extra", reply=True, timeout=2))
        print([queue["name"] for queue in control.inspect(timeout=2).active_queues()["w@h"]])
        tell("pool_grow", control.pool_grow(1, reply=True, timeout=2))
        print(control.inspect(timeout=2).stats()["w@h"]["pool"]["max-concurrency"])
        tell("pool_shrink", control.pool_shrink(1, reply=True, timeout=2))
        tell("enable_events", control.enable_events(reply=True, timeout=2))
        tell("enable_events again", control.enable_events(reply=True, timeout=2))
        tell("disable_events", control.disable_events(reply=True, timeout=2))
        tell("autoscale", control.autoscale(2, 1, reply=True, timeout=2))
        tell("broadcast", control.broadcast("ping", reply=True, timeout=2, destination=["w@h"]))
        tell("unknown", control.broadcast("no_such_command", reply=True, timeout=2))
        tell("revoke", str(control.revoke("an-id", reply=True, timeout=2)))
        tell("heartbeat", control.broadcast("heartbeat", reply=True, timeout=0.3))
        control.shutdown(destination=["w@h"])
        print("exit status", running.wait())
