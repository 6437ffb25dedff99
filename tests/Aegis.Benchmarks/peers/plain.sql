-- One transition as a plain service does it: a statement for each step, in one transaction.
\set n random(1, 100)
\set request random(1, 9223372036854775807)
BEGIN;
SELECT sequence, from_state, to_state, log_index
FROM record
WHERE workflow_id = 'w-' || :client_id || '-' || :n AND request_id = :request;
SELECT state, sequence, sequence + 1 AS next
FROM workflow
WHERE workflow_id = 'w-' || :client_id || '-' || :n
FOR UPDATE \gset
INSERT INTO snapshot (workflow_id, sequence, content_type, content)
VALUES ('w-' || :client_id || '-' || :n, :next, 'application/json', convert_to(:snapshot, 'UTF8'));
INSERT INTO record (workflow_id, sequence, from_state, to_state, status, actor, reason, request_id)
VALUES ('w-' || :client_id || '-' || :n, :next, :state, 'OPEN', 1, 'caller', '', :request)
RETURNING log_index;
UPDATE workflow
SET state = 'OPEN', status = 1, sequence = :next, updated_at = now()
WHERE workflow_id = 'w-' || :client_id || '-' || :n;
COMMIT;
