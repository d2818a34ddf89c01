-- Statements on saved groups: the members of a GroupResult, under the group's id. See migrations/0001_queue.sql.

-- name: save_group
-- Remember the members of a group result under its id.
INSERT INTO pgtasks.saved_group (id, members) VALUES (%(id)s, %(members)s)
ON CONFLICT (id) DO UPDATE SET members = excluded.members, saved_at = pgtasks.clock()

-- name: restore_group
-- Read the members of a saved group result.
SELECT members FROM pgtasks.saved_group WHERE id = %(id)s

-- name: delete_group
-- Forget a saved group result.
DELETE FROM pgtasks.saved_group WHERE id = %(id)s
