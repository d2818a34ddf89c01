-- Statements on what is known of tasks: their results, and before those their states.

-- name: fetch
-- Read what is known of some tasks: the result, else the newest progress, else just the message. Unknown ids give no row.
-- In: ids. Out: `Stored`.
SELECT a.id, m.task_id, m.name, coalesce(r.state, p.state) AS state,
       CASE WHEN r.id IS NULL THEN p.content_type ELSE r.content_type END,
       CASE WHEN r.id IS NULL THEN p.content_encoding ELSE r.content_encoding END,
       CASE WHEN r.id IS NULL THEN p.value ELSE r.value END,
       CASE WHEN r.id IS NULL THEN p.traceback ELSE r.traceback END,
       CASE WHEN r.id IS NULL THEN p.children ELSE r.children END,
       m.group_id, m.parent, coalesce(r.retries, 0), coalesce(r.worker, p.worker), m.queue, coalesce(r.done_at, p.at),
       r.id IS NOT NULL AS is_ended, m.content_type, m.content_encoding,
       CASE WHEN %(with_payload)s THEN m.payload END, CASE WHEN %(with_payload)s THEN m.options END,
       next.ids, next.group_ids, next.options
FROM unnest(%(ids)b::uuid[]) AS a(id)
LEFT JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = a.id OFFSET 0) m ON true
LEFT JOIN LATERAL (SELECT * FROM pgtasks.result WHERE id = a.id AND NOT hidden OFFSET 0) r ON true
LEFT JOIN LATERAL (SELECT * FROM pgtasks.progress WHERE id = a.id OFFSET 0) p ON true
LEFT JOIN LATERAL (
  SELECT array_agg(coalesce(s.task_id, s.id::text) ORDER BY s.id) AS ids, array_agg(s.group_id ORDER BY s.id) AS group_ids,
         array_agg(s.options ORDER BY s.id) AS options
  FROM pgtasks.edge e CROSS JOIN LATERAL (SELECT * FROM pgtasks.message WHERE id = e.succ OFFSET 0) s
  -- One that was retried, or replaced, has its inputs among its own arguments by now.
  WHERE e.pred = m.id AND s.inputs IS DISTINCT FROM 'list' AND s.name <> 'celery.undo'
) next ON m.has_successors AND r.state = 'SUCCESS'
WHERE m.id IS NOT NULL OR r.id IS NOT NULL OR p.id IS NOT NULL

-- name: ended
-- Which of some tasks have ended, hidden results included.
-- In: ids. Out: ids.
SELECT id FROM pgtasks.result WHERE id = ANY (%(ids)b)

-- name: forget
-- Remove the results of some tasks; what has not ended goes on.
-- In: ids. Out: how many were removed.
WITH noted AS (
  DELETE FROM pgtasks.progress WHERE id = ANY (%(ids)b) RETURNING id
),
emptied AS (
  UPDATE pgtasks.result SET hidden = true, value = NULL, traceback = NULL, children = NULL
  WHERE id = ANY (%(ids)b) AND NOT hidden
  RETURNING id
)
SELECT count(*) FROM (SELECT id FROM noted UNION SELECT id FROM emptied) f
