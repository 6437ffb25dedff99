-- 100 workflows for each of 256 clients of pgbench. Each stays OPEN, so that whoever moves it knows its state without asking.
INSERT INTO workflow (workflow_id, workflow_type, state, status, sequence)
SELECT 'w-' || client || '-' || n, 'order', 'OPEN', 1, 0
FROM generate_series(0, 255) AS client, generate_series(1, 100) AS n;

VACUUM ANALYZE workflow;
