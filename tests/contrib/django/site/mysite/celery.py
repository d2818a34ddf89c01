import os

from pgtasks import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace=os.environ.get("SITE_NAMESPACE", "CELERY"))
app.autodiscover_tasks()
