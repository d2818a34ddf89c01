"""The admin's pages, asked for by the test client."""

from __future__ import annotations

from tests.contrib.django.conftest import Site

ADMIN = """
import json, re
from django.contrib.auth.models import Permission, User
from django.test import Client
from mysite.celery import app
from polls.tasks import add, fail
from pgtasks import chain
from pgtasks.result import AsyncResult

User.objects.create_superuser("root", password="x") if not User.objects.filter(username="root") else None
client = Client()
client.login(username="root", password="x")

def text(answer):
    assert answer.status_code == 200, answer.status_code
    return re.sub(r"<[^>]*>", " ", answer.content.decode())

def act(action, *ids):
    url = "/admin/pgtasks/task/"
    return text(client.post(url, {"action": action, "_selected_action": ids}, follow=True))
"""


def test_pages_show_tasks_with_what_came_of_them_and_actions_act(site: Site) -> None:
    with site.worker():
        site.run(
            """
from polls.tasks import add, fail
from pgtasks import chain
add.delay(2, 3).get(timeout=60)
try:
    chain(fail.si("<b>no</b>"), add.si(1, 1))().get(timeout=60)
except ValueError:
    said = None
"""
        )
        said = site.run(
            ADMIN
            + r"""
said = {}
pages = ("task", "queue", "worker", "schedule", "step")
said["lists"] = [text(client.get(f"/admin/pgtasks/{page}/")).count("polls.tasks") for page in pages]
said["worker"] = "prefork" in text(client.get("/admin/pgtasks/worker/"))
failed = text(client.get("/admin/pgtasks/task/?state=FAILURE"))
said["filtered"] = [failed.count("polls.tasks.fail"), failed.count("polls.tasks.add")]
said["searched"] = text(client.get("/admin/pgtasks/task/?q=polls.tasks.f")).count("polls.tasks.fail")
from pgtasks.contrib.django.models import Task
task = Task.objects.get(name="polls.tasks.fail")
page = client.get(f"/admin/pgtasks/task/{task.pk}/change/").content.decode()
said["page"] = ["&lt;b&gt;no&lt;/b&gt;" in page, "<b>no</b>" in page, "ValueError" in page, "<svg" in page,
                "Save" in page, 'name="_save"' in page]
waiting = add.apply_async((1, 1), countdown=3600)
said["revoked"] = "1 task was revoked" in act("revoke", waiting.id), waiting.state
page = act("redrive", str(task.pk))
said["redriven"] = re.findall(r"\d+ tasks? runs? again", page)
done = Task.objects.filter(name="polls.tasks.add", state="SUCCESS").first()
said["retried"] = "1 copy was sent" in act("retry", str(done.pk))
said["deletes"] = client.post(f"/admin/pgtasks/task/{task.pk}/delete/").status_code
said["adds"] = client.get("/admin/pgtasks/task/add/").status_code
try:
    task.save()
except TypeError as error:
    said["saves"] = str(error)
"""
        )

    assert said["lists"][0] >= 3
    assert said["worker"] is True
    assert said["filtered"][0] >= 1
    assert said["searched"] >= 1
    assert said["page"] == [True, False, True, True, False, False]
    assert said["revoked"] == [True, "REVOKED"]
    assert said["redriven"] == ["2 tasks run again"]
    assert said["retried"] is True
    assert (said["deletes"], said["adds"]) == (403, 403)
    assert "cannot be saved" in said["saves"]


def test_who_may_only_view_can_do_nothing_and_others_see_nothing(site: Site) -> None:
    said = site.run(
        ADMIN
        + """
result = add.apply_async((1, 1), countdown=3600)
staff = User.objects.create_user("staff", password="x", is_staff=True)
client.login(username="staff", password="x")
said = [client.get("/admin/pgtasks/task/").status_code]
staff.user_permissions.add(Permission.objects.get(codename="view_task"))
page = text(client.get("/admin/pgtasks/task/"))
said += ["polls.tasks.add" in page, "Revoke" in page]
client.post("/admin/pgtasks/task/", {"action": "revoke", "_selected_action": [result.id]})
said.append(result.state)
"""
    )

    assert said == [403, True, False, "PENDING"]


def test_a_project_whose_databases_are_elsewhere_is_told_so(site: Site, database_url: str) -> None:
    site.settings["CELERY_BROKER_URL"] = database_url

    said = site.run(
        ADMIN
        + """
from pgtasks.exceptions import ImproperlyConfigured
try:
    client.get("/admin/pgtasks/task/")
except ImproperlyConfigured as error:
    said = str(error)
"""
    )

    assert "None of DATABASES (default) is the database of the tasks" in said
