"""conf is an object, a mapping and a report; later assignments win over the source, and defaults show through."""

from celery import Celery

from compat.harness import outcome, show

app = Celery("reading")
app.conf.task_default_queue = "assigned-before"
app.conf.update(result_expires=10, my_own=["kept"])


def main():
    conf = app.conf
    print(conf.task_default_queue, conf["result_expires"], conf.my_own, conf.get("nothing", "fallback"))
    print(outcome(lambda: conf.nothing_such), outcome(lambda: conf["nothing_such"]))
    conf.result_expires = 20
    conf["task_time_limit"] = 5
    print(conf.result_expires, conf.task_time_limit, "task_time_limit" in conf)
    print(conf.setdefault("result_expires", 99), conf.setdefault("fresh", 1), conf.fresh)
    print(conf.find_option("default_queue", "task")[:2])
    show(
        sorted(
            (k, v)
            for k, v in conf.table(with_defaults=False).items()
            if k != "deprecated_settings" and not k.startswith(("broker", "result_b"))
        )
    )
    conf.api_secret_key = "hush"
    conf.some_token = "hush"
    print({k: v for k, v in conf.table(with_defaults=False, censored=True).items() if "secret" in k or "token" in k})
    print([line for line in conf.humanize(with_defaults=False, censored=True).splitlines() if "expires" in line])
    print(conf.value_set_for("my_own"), conf.value_set_for("never"))
    show(
        (name, getattr(conf, name))
        for name in (
            "accept_content task_serializer result_serializer task_acks_late task_track_started worker_prefetch_multiplier "
            "task_always_eager task_ignore_result worker_max_tasks_per_child timezone enable_utc task_default_priority "
            "task_default_exchange task_default_routing_key worker_hijack_root_logger beat_max_loop_interval "
            "task_publish_retry_policy worker_log_format worker_task_log_format task_reject_on_worker_lost "
            "result_extended task_create_missing_queues task_protocol task_inherit_parent_priority"
        ).split()
    )
    app.add_defaults({"from_defaults": 1})
    app.add_defaults(lambda: {"lazily": 2})
    print(conf.from_defaults, conf.lazily)
