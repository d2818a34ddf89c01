"""What lets programs of Celery itself use this database: a kombu transport and a result backend.

    broker_url = "pgtasks+postgresql://user@host/db"        pgtasks.kombu.transport
    result_backend = "pgtasks+postgresql://user@host/db"    pgtasks.kombu.results

Nothing of pgtasks imports it. Celery finds both by entry points of the installed package.
"""
