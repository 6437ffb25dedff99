-- One transition in one statement, the least that PostgreSQL can be asked for. No row comes back when the workflow is not
-- where the caller takes it to be, or when the request was answered before: only then the caller has to ask which. Of two
-- equal requests at the same moment the second waits for the first one's row, and is then refused by the unique request.
\set n random(1, 100)
\set request random(1, 9223372036854775807)
WITH head AS (
    UPDATE workflow
    SET state = 'OPEN', status = 1, sequence = sequence + 1, updated_at = now()
    WHERE workflow_id = 'w-' || :client_id || '-' || :n AND state = 'OPEN' AND NOT EXISTS (
        SELECT
        FROM record
        WHERE workflow_id = 'w-' || :client_id || '-' || :n AND request_id = :request)
    RETURNING workflow_id, state, status, sequence
), kept AS (
    INSERT INTO snapshot (workflow_id, sequence, content_type, content)
    SELECT workflow_id, sequence, 'application/json', convert_to(:snapshot, 'UTF8')
    FROM head
)
INSERT INTO record (workflow_id, sequence, from_state, to_state, status, actor, reason, request_id)
SELECT workflow_id, sequence, 'OPEN', state, status, 'caller', '', :request
FROM head
RETURNING log_index, sequence;
