"""Moving a running Celery installation into Postgres, and back: `pgtasks bridge`.

    broker --take--> Parcel --read--> messages and edges --enqueue, commit--> Postgres
       ^                                                                          |
       +------------------------------- settle <----------------------------------+

Nothing is taken off a broker before Postgres has committed it, and a task's id is its key, so a crash between the two
means that a batch is read again and changes nothing. What cannot be read is kept in a table with the reason; what only
the old workers can finish goes to a queue of their own. kombu reads and writes both brokers.
"""
