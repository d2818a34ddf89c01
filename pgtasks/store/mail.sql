-- Statements on mail: exchanges, mailboxes and what is in them, and tasks that come from and go to programs of Celery.
-- See migrations/0007_kombu.sql for the tables.

-- name: declare_exchange
-- Note how an exchange sends its messages on. One that is known already stays as it is.
INSERT INTO pgtasks.exchange (name, type) VALUES (%(name)s, %(type)s) ON CONFLICT (name) DO NOTHING

-- name: declare_mailbox
-- Open a mailbox, or say that it is still wanted. It can be sent to by its name, as every queue can.
-- In: name, seconds without a reader after which it is thrown away, seconds for which messages are kept or NULL.
WITH opened AS (
  INSERT INTO pgtasks.mailbox (name, expires, keeps)
  VALUES (%(name)s, %(expires)s::float8 * interval '1 second', %(keeps)s::float8 * interval '1 second')
  ON CONFLICT (name) DO UPDATE SET seen_at = pgtasks.clock(), expires = excluded.expires, keeps = excluded.keeps
)
INSERT INTO pgtasks.binding (exchange, queue, routing_key, is_mailbox, pattern)
VALUES ('', %(name)s, %(name)s, true, '') ON CONFLICT (exchange, queue, routing_key) DO NOTHING

-- name: bind
-- Have an exchange send to a queue. With a listener, the mailbox gets all events instead, those of our own workers and those
-- that come through the exchange, which are passed on to whoever listens.
-- In: exchange, queue, routing key and its pattern, is it a mailbox, listener or NULL.
WITH listening AS (
  UPDATE pgtasks.mailbox SET listener = %(listener)s::uuid WHERE name = %(queue)s AND %(listener)s::uuid IS NOT NULL
  RETURNING listener
),
noted AS (
  INSERT INTO pgtasks.listener (id) SELECT listener FROM listening
  ON CONFLICT (id) DO UPDATE SET seen_at = pgtasks.clock()
)
INSERT INTO pgtasks.binding (exchange, queue, routing_key, is_mailbox, pattern)
SELECT %(exchange)s, %(queue)s, %(routing_key)s, %(is_mailbox)s, %(pattern)s WHERE %(listener)s::uuid IS NULL
ON CONFLICT (exchange, queue, routing_key) DO NOTHING

-- name: find_mailbox
-- Find the mailbox that a direct exchange sends to by a routing key. Out: its name.
SELECT queue FROM pgtasks.binding WHERE exchange = %(exchange)s AND routing_key = %(routing_key)s AND is_mailbox LIMIT 1

-- name: nodes
-- The nodes that read their letters from mailboxes of an exchange, by the names that these begin with: workers of Celery,
-- which know all commands, and schedulers, which know one, and say so by the key of their binding. It means nothing else, as
-- the exchange sends to all. Relies on binding_pkey. In: exchange, command. Out: names.
SELECT left(b.queue, -1 - length(%(exchange)s::text))
FROM pgtasks.binding b JOIN pgtasks.mailbox m ON m.name = b.queue
WHERE b.exchange = %(exchange)s::text AND b.routing_key IN ('', %(command)s::text)
  AND b.is_mailbox AND m.seen_at > pgtasks.clock() - m.expires
  AND right(b.queue, 1 + length(%(exchange)s::text)) = '.' || %(exchange)s::text
ORDER BY b.queue

-- name: bindings
-- What exchanges send to, as programs of Celery have declared it. Few rows, read whole. Out: queue, exchange, routing key.
SELECT queue, exchange, routing_key FROM pgtasks.binding ORDER BY queue, exchange, routing_key

-- name: unbind
-- Have an exchange send to a queue no longer.
DELETE FROM pgtasks.binding
WHERE exchange = %(exchange)s AND queue = %(queue)s AND routing_key = %(routing_key)s

-- name: close_mailbox
-- Throw a mailbox away with what is in it, and forget that it listened to events.
WITH closed AS (
  DELETE FROM pgtasks.mailbox WHERE name = %(name)s RETURNING listener
),
unbound AS (
  DELETE FROM pgtasks.binding WHERE queue = %(name)s AND is_mailbox
),
emptied AS (
  DELETE FROM pgtasks.mail WHERE mailbox = %(name)s
),
unheard AS (
  DELETE FROM pgtasks.listener WHERE id IN (SELECT listener FROM closed)
)
DELETE FROM pgtasks.event WHERE listener IN (SELECT listener FROM closed)

-- name: deliver
-- Send a message to the queues that its exchange and routing key mean: leave it in the mailboxes among them and wake their
-- readers, and say which of them are task queues. A mailbox without a reader, or with 10 000 messages, gets no more.
-- In: exchange, routing key, properties, body, seconds until it is void or NULL.
-- Out: names of task queues; how many mailboxes there were, those that got nothing among them.
WITH target AS MATERIALIZED (
  SELECT DISTINCT b.queue, b.is_mailbox
  FROM pgtasks.binding b LEFT JOIN pgtasks.exchange e ON e.name = b.exchange
  WHERE b.exchange = %(exchange)s
    AND CASE coalesce(e.type, 'direct')
          WHEN 'fanout' THEN true
          WHEN 'topic' THEN %(routing_key)s ~ b.pattern
          ELSE b.routing_key = %(routing_key)s
        END
),
open AS MATERIALIZED (
  SELECT m.name, m.keeps, m.reader
  FROM target t JOIN pgtasks.mailbox m ON m.name = t.queue
  WHERE t.is_mailbox AND m.seen_at > pgtasks.clock() - m.expires
    AND NOT EXISTS (SELECT FROM pgtasks.mail l WHERE l.mailbox = m.name OFFSET 10000)
),
kept AS (
  INSERT INTO pgtasks.mail (mailbox, expires_at, properties, body)
  SELECT name, pgtasks.clock() + least(keeps, %(expires_in)s::float8 * interval '1 second'), %(properties)s, %(body)s
  FROM open ORDER BY name
)
SELECT ARRAY(SELECT queue FROM target WHERE NOT is_mailbox ORDER BY queue),
       (SELECT count(*) FROM target WHERE is_mailbox),
       (SELECT count(pg_notify('pgtasks_mail_' || reader, '')) FROM open
        WHERE reader IS NOT NULL AND pg_notification_queue_usage() < 0.5)

-- name: look
-- Take what has come for some mailboxes, events among it, up to `limit` of each; with `renew`, say that they are read.
-- Relies on mail_pkey, event_pkey. In: reader, mailboxes, renew, limit.
-- Out: mailbox, properties or NULL for events, their types, body; and one row without a mailbox that names those which are
-- not there any more.
WITH mine AS MATERIALIZED (
  SELECT name, listener FROM pgtasks.mailbox WHERE name = ANY (%(mailboxes)s::text[])
),
seen AS (
  UPDATE pgtasks.mailbox SET seen_at = pgtasks.clock(), reader = %(reader)s
  WHERE %(renew)s AND name IN (SELECT name FROM mine)
),
noted AS (
  INSERT INTO pgtasks.listener (id) SELECT listener FROM mine WHERE %(renew)s AND listener IS NOT NULL
  ON CONFLICT (id) DO UPDATE SET seen_at = pgtasks.clock()
),
next AS MATERIALIZED (
  SELECT mailbox, seq FROM pgtasks.mail WHERE mailbox = ANY (%(mailboxes)s::text[])
  ORDER BY mailbox, seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
taken AS (
  DELETE FROM pgtasks.mail USING next WHERE mail.mailbox = next.mailbox AND mail.seq = next.seq
  RETURNING mail.mailbox, mail.seq, mail.expires_at, mail.properties, mail.body
),
told AS MATERIALIZED (
  SELECT e.listener, e.seq, m.name FROM mine m JOIN pgtasks.event e ON e.listener = m.listener
  ORDER BY e.listener, e.seq LIMIT %(limit)s FOR UPDATE OF e SKIP LOCKED
),
heard AS (
  DELETE FROM pgtasks.event e USING told WHERE e.listener = told.listener AND e.seq = told.seq
  RETURNING told.name, e.seq, e.content_type, e.content_encoding, e.body
)
SELECT mailbox, properties, content_type, content_encoding, body, missing
FROM (
  SELECT mailbox, seq, properties, NULL AS content_type, NULL AS content_encoding, body, NULL::text[] AS missing
  FROM taken WHERE expires_at IS NULL OR expires_at > pgtasks.clock()
  UNION ALL
  SELECT name, seq, NULL, content_type, content_encoding, body, NULL FROM heard
  UNION ALL
  SELECT NULL, 0, NULL, NULL, NULL, NULL, ARRAY(SELECT unnest(%(mailboxes)s::text[]) EXCEPT SELECT name FROM mine)
) l
ORDER BY seq

-- name: empty
-- Throw away what is in a mailbox. Out: how many messages there were.
WITH emptied AS (
  DELETE FROM pgtasks.mail WHERE mailbox = %(name)s RETURNING 1
)
SELECT count(*) FROM emptied

-- name: count_mail
-- How many messages are in a mailbox.
SELECT count(*) FROM pgtasks.mail WHERE mailbox = %(name)s

-- name: reply
-- Leave the reply to a letter of a program of Celery in that program's mailbox, and wake it. In: mailbox, properties, body.
WITH open AS MATERIALIZED (
  SELECT name, reader FROM pgtasks.mailbox WHERE name = %(mailbox)s AND seen_at > pgtasks.clock() - expires
    AND NOT EXISTS (SELECT FROM pgtasks.mail WHERE mailbox = %(mailbox)s OFFSET 10000)
),
kept AS (
  INSERT INTO pgtasks.mail (mailbox, properties, body) SELECT name, %(properties)s, %(body)s FROM open
)
SELECT pg_notify('pgtasks_mail_' || reader, '') FROM open
WHERE reader IS NOT NULL AND pg_notification_queue_usage() < 0.5

-- name: sweep
-- Throw away mailboxes that nobody has read for longer than they are to be kept, with all that belongs to them; what
-- programs of Celery acknowledged a week ago and never told the end of; and bindings of mailboxes that a crash took away.
WITH dead AS (
  DELETE FROM pgtasks.mailbox WHERE seen_at < pgtasks.clock() - expires RETURNING name, listener
),
unbound AS (
  DELETE FROM pgtasks.binding
  WHERE is_mailbox AND (queue IN (SELECT name FROM dead) OR queue NOT IN (SELECT name FROM pgtasks.mailbox))
),
unheard AS (
  DELETE FROM pgtasks.listener WHERE id IN (SELECT listener FROM dead)
),
lost AS (
  DELETE FROM pgtasks.away WHERE since < pgtasks.clock() - interval '7 days' RETURNING id
),
unshown AS (
  DELETE FROM pgtasks.progress WHERE id IN (SELECT id FROM lost)
),
forgotten AS (
  DELETE FROM pgtasks.message
  WHERE id IN (SELECT id FROM lost) AND NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = message.id)
)
DELETE FROM pgtasks.mail
WHERE mailbox IN (SELECT name FROM dead) OR NOT EXISTS (SELECT FROM pgtasks.mailbox m WHERE m.name = mail.mailbox)

-- name: hand_in
-- Add a task that a program of Celery has sent. One whose id is there already changes nothing, so that it may be sent again
-- when an answer was lost; but one that `follows` an attempt by a worker of Celery, as a retry or a replacement, takes the
-- place of the task, and the delivery that it ends is over: its acknowledgement will find nothing.
-- It wakes an idle worker as `enqueue_one` does. Locks: claim, then away, then message.
-- In: one message; has_successors says that the body of a chord waits for it. Out: 1, or 0 if nothing was changed: then one
-- that follows is to be sent once more, for an acknowledgement that went on at the same time is only seen by the next one.
WITH ousted AS (
  DELETE FROM pgtasks.claim
  WHERE id = %(id)s AND %(follows)s AND worker IN (SELECT id FROM pgtasks.worker WHERE pool = 'kombu')
  RETURNING id, delivery
),
back AS (
  DELETE FROM pgtasks.away WHERE id = %(id)s AND %(follows)s RETURNING id, delivery
),
before AS MATERIALIZED (
  SELECT id, max(delivery) AS delivery FROM (SELECT * FROM ousted UNION ALL SELECT * FROM back) b GROUP BY id
),
added AS (
  INSERT INTO pgtasks.message (id, priority, has_successors, root, parent, due, expires, name, queue, task_id, group_id,
                               content_type, content_encoding, options, payload)
  VALUES (%(id)s, %(priority)s, %(has_successors)s, %(root)s, %(parent)s, %(due)s, %(expires)s, %(name)s, %(queue)s,
          %(task_id)s, %(group_id)s, %(content_type)s, %(content_encoding)s, %(options)s, %(payload)s)
  ON CONFLICT (id) DO NOTHING
  RETURNING id
),
changed AS (
  UPDATE pgtasks.message m
  SET priority = %(priority)s, due = %(due)s, expires = %(expires)s, name = %(name)s, queue = %(queue)s, inputs = NULL,
      content_type = %(content_type)s, content_encoding = %(content_encoding)s, options = %(options)s,
      payload = %(payload)s, has_successors = m.has_successors OR %(has_successors)s
  WHERE m.id IN (SELECT id FROM before)
  RETURNING m.id
),
placed AS MATERIALIZED (
  SELECT id, 0 AS delivery FROM added
  UNION ALL
  SELECT c.id, greatest(b.delivery, %(retries)s::int) FROM changed c JOIN before b ON b.id = c.id
),
later AS (
  INSERT INTO pgtasks.scheduled (id, due, retries, delivery, rank, queue)
  SELECT id, %(due)s, %(retries)s, delivery, -%(priority)s::smallint, %(queue)s FROM placed
  WHERE %(due)s::timestamptz > pgtasks.clock()
  RETURNING id
),
now AS (
  INSERT INTO pgtasks.ready (id, retries, delivery, rank, queue)
  SELECT id, %(retries)s, delivery, -%(priority)s::smallint, %(queue)s FROM placed
  WHERE %(due)s::timestamptz IS NULL OR %(due)s::timestamptz <= pgtasks.clock()
)
SELECT (SELECT count(*) FROM placed), (
  SELECT count(pg_notify('pgtasks_worker_' || i.worker, CASE WHEN EXISTS (SELECT FROM later) THEN '' ELSE 'ready' END))
  FROM (
    SELECT worker FROM pgtasks.idle WHERE queue = %(queue)s
    ORDER BY hashtextextended(worker::text, pg_current_xact_id()::text::bigint) LIMIT 1
  ) i
  WHERE pg_notification_queue_usage() < 0.5
)

-- name: acknowledge
-- Take acknowledged tasks out of the hands of a worker of Celery: it has ended them, or, as by default, it begins them now
-- and will tell their end to its result backend, if to anybody. Those that others wait for stay claimed until then, as
-- tasks that must not be handed out again. Relies on claim_pkey, message_pkey, result_pkey.
-- Locks: claim, then away. In: worker, its name, ids and deliveries; the state that is shown until the end is known.
WITH given AS (
  SELECT * FROM unnest(%(ids)s::uuid[], %(deliveries)s::int[]) AS g(id, delivery)
),
held AS (
  UPDATE pgtasks.claim c SET acked = true
  FROM given g JOIN pgtasks.message m ON m.id = g.id
  WHERE c.id = g.id AND c.worker = %(worker)s AND c.delivery = g.delivery AND m.has_successors
),
gone AS (
  DELETE FROM pgtasks.claim c
  USING given g JOIN pgtasks.message m ON m.id = g.id
  WHERE c.id = g.id AND c.worker = %(worker)s AND c.delivery = g.delivery AND NOT m.has_successors
  RETURNING c.id, c.delivery
),
unended AS MATERIALIZED (
  SELECT id, delivery FROM gone WHERE NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = gone.id)
),
shown AS (
  INSERT INTO pgtasks.progress (id, state, worker) SELECT id, %(state)s, %(hostname)s FROM unended
  ON CONFLICT (id) DO NOTHING
)
INSERT INTO pgtasks.away (id, delivery) SELECT id, delivery FROM unended
ON CONFLICT (id) DO UPDATE SET since = pgtasks.clock(), delivery = excluded.delivery

-- name: bring_back
-- Return tasks to their queue that a worker of Celery has not begun, or does not want, uncharged.
-- Locks: claim. In: worker, ids and deliveries. Out: how many.
WITH freed AS (
  DELETE FROM pgtasks.claim c
  USING unnest(%(ids)s::uuid[], %(deliveries)s::int[]) AS g(id, delivery)
  WHERE c.id = g.id AND c.worker = %(worker)s AND c.delivery = g.delivery
  RETURNING c.id, c.delivery, c.retries, c.losses, c.revoke_signal
),
marked AS (
  INSERT INTO pgtasks.revoked (id) SELECT id FROM freed WHERE revoke_signal IS NOT NULL ON CONFLICT (id) DO NOTHING
),
returned AS (
  INSERT INTO pgtasks.ready (id, queue, rank, delivery, retries, losses)
  SELECT f.id, m.queue, -m.priority, f.delivery, f.retries, f.losses FROM freed f JOIN pgtasks.message m ON m.id = f.id
  RETURNING id
)
SELECT count(*) FROM returned

-- name: finish
-- Store the end of a task that a worker of Celery ran, and tell whoever waits for it. The first end wins. Of a task that
-- others wait for nothing is stored here: that is a `settle`, by the claim whose worker and delivery come out.
-- Locks: claim, then away. In: id, state, value. Out: worker and delivery of the claim to settle, or NULLs; whether the task
-- was found in the hands of anybody. If not, an acknowledgement may go on at the same time: see `come_home`.
WITH waited_for AS MATERIALIZED (
  SELECT c.worker, c.delivery FROM pgtasks.claim c
  JOIN pgtasks.message m ON m.id = c.id JOIN pgtasks.worker w ON w.id = c.worker
  WHERE c.id = %(id)s AND m.has_successors AND w.pool = 'kombu'
),
ended AS (
  DELETE FROM pgtasks.claim
  WHERE id = %(id)s AND worker IN (SELECT id FROM pgtasks.worker WHERE pool = 'kombu')
    AND NOT EXISTS (SELECT FROM waited_for)
  RETURNING id, claimed_at, retries, delivery
),
home AS (
  DELETE FROM pgtasks.away WHERE id = %(id)s RETURNING id, delivery
),
stored AS (
  INSERT INTO pgtasks.result (id, claimed_at, retries, delivery, state, worker, content_type, content_encoding, value,
                              traceback, children)
  SELECT %(id)s, (SELECT claimed_at FROM ended), %(retries)s,
         coalesce((SELECT delivery FROM ended), (SELECT delivery FROM home), 0), %(state)s, %(hostname)s,
         %(content_type)s, %(content_encoding)s, %(value)s, %(traceback)s, %(children)s
  WHERE NOT EXISTS (SELECT FROM waited_for)
  ON CONFLICT (id) DO NOTHING
  RETURNING id
),
waiters AS (
  DELETE FROM pgtasks.waiter WHERE id IN (SELECT id FROM stored) AND pg_notification_queue_usage() < 0.5
  RETURNING id, process
)
SELECT (SELECT worker FROM waited_for), (SELECT delivery FROM waited_for),
       EXISTS (SELECT FROM ended) OR EXISTS (SELECT FROM home),
       (SELECT count(pg_notify('pgtasks_waiter_' || process, id::text)) FROM waiters)

-- name: come_home
-- Note that an acknowledged task has ended, where its end was stored while it was being acknowledged. In: id.
DELETE FROM pgtasks.away WHERE id = %(id)s
