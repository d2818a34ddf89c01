"""before_task_publish sees and may change the message; after_task_publish follows once it is sent."""

from celery import Celery, chain, group
from celery.signals import after_task_publish, before_task_publish

from compat.harness import show, worker

app = Celery("publishing")
heard = []
HEADERS = "lang task shadow eta expires group group_index retries timelimit root_id parent_id argsrepr kwargsrepr ignore_result replaced_task_nesting".split()


@app.task(bind=True)
def look(self, *args, **kwargs):
    return self.request.headers, getattr(self.request, "tenant", None), self.request.properties.get("app_id")


@before_task_publish.connect
def before(sender, body, exchange, routing_key, headers, properties, declare, retry_policy, **kwargs):
    args, kw, embed = body
    heard.append(
        [
            "before",
            sender,
            list(args),
            kw,
            sorted(embed),
            exchange,
            routing_key,
            headers["id"] == properties["correlation_id"],
        ]
    )
    heard.append({name: headers[name] for name in HEADERS if name not in ("root_id", "parent_id")})
    heard.append(
        [
            headers["root_id"] == headers["id"],
            headers["parent_id"],
            sorted(retry_policy),
            [queue.name for queue in declare],
        ]
    )
    headers["tenant"] = "acme"
    properties["app_id"] = "shop"


@after_task_publish.connect(sender="publishing.look")
def after(sender, body, headers, exchange, routing_key, **kwargs):
    heard.append(["after", sender, headers["tenant"], exchange, routing_key])


def main():
    with worker():
        print(look.delay(1, k=2).get(timeout=10))
        show(heard)
        heard.clear()
        print(
            look.apply_async(headers={"own": 1}, countdown=0.01, shadow="s", queue="celery", time_limit=9).get(
                timeout=10
            )
        )
        show(line for line in heard if isinstance(line, dict) and line.update(eta=bool(line["eta"])) is None)
        heard.clear()
        chain(look.s(), look.si())().get(timeout=10)
        group(look.s(), look.s())().get(timeout=10)
        print([line[0] for line in heard if isinstance(line, list) and line[0] in ("before", "after")])
        heard.clear()
        app.send_task("publishing.look").get(timeout=10)
        print([line[:2] for line in heard if isinstance(line, list) and line[0] in ("before", "after")])
