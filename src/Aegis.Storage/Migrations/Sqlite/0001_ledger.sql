-- The ledger: workflows, their records in the order of one log, snapshots and leases.
-- Times are microseconds since 1970, 0 for none.

CREATE TABLE record (
    log_index             INTEGER NOT NULL CONSTRAINT record_has_one_place_in_the_log PRIMARY KEY,
    log_id                TEXT    NOT NULL,
    namespace             TEXT    NOT NULL,
    workflow_id           TEXT    NOT NULL,
    sequence              INTEGER NOT NULL,
    kind                  INTEGER NOT NULL,
    workflow_type         TEXT    NOT NULL,
    from_state            TEXT    NOT NULL,
    to_state              TEXT    NOT NULL,
    status                INTEGER NOT NULL,
    request_id            TEXT    NOT NULL,
    request_key           BLOB,
    lease_epoch           INTEGER NOT NULL,
    occurred_at           INTEGER NOT NULL,
    recorded_at           INTEGER NOT NULL,
    person_salt           BLOB,
    actor                 TEXT,
    principal             TEXT,
    content_salt          BLOB,
    reason                TEXT,
    metadata              TEXT,
    snapshot_salt         BLOB,
    snapshot_content_type TEXT,
    snapshot_size         INTEGER,
    snapshot_sha256       BLOB,
    hash                  BLOB    NOT NULL,
    encoded               BLOB    NOT NULL,
    CONSTRAINT record_is_in_the_log CHECK (log_index >= 0),
    CONSTRAINT record_is_in_a_chain CHECK (sequence >= 1),
    CONSTRAINT record_kind_is_known CHECK (kind BETWEEN 1 AND 4),
    CONSTRAINT record_status_is_known CHECK (status BETWEEN 1 AND 5),
    CONSTRAINT record_hash_is_sha256 CHECK (length(hash) = 32),
    CONSTRAINT record_is_once_in_its_chain UNIQUE (namespace, workflow_id, sequence),
    CONSTRAINT record_answers_one_request UNIQUE (request_key)
) STRICT;

-- No indexes for actor, principal and namespace alone, as PostgreSQL has them: SQLite plans without the values, and reads
-- along the log where a filter is optional (100,000 records in some 30 ms).
-- What describes a snapshot can be erased; that there was one is in the encoded bytes, which end with snapshot_digest and
-- previous_hash, 32 bytes each.
CREATE INDEX record_with_snapshot ON record (namespace, workflow_id, sequence)
    WHERE substr(encoded, -64, 32) <> x'0000000000000000000000000000000000000000000000000000000000000000';

CREATE TABLE workflow (
    namespace               TEXT    NOT NULL,
    workflow_id             TEXT    NOT NULL,
    workflow_type           TEXT    NOT NULL,
    state                   TEXT    NOT NULL,
    status                  INTEGER NOT NULL,
    sequence                INTEGER NOT NULL,
    head_hash               BLOB    NOT NULL,
    checkpoint_sequence     INTEGER NOT NULL,
    metadata                TEXT    NOT NULL,
    forked_from_workflow_id TEXT,
    forked_from_sequence    INTEGER,
    forked_from_hash        BLOB,
    created_log_index       INTEGER NOT NULL,
    created_at              INTEGER NOT NULL,
    updated_at              INTEGER NOT NULL,
    importing               INTEGER NOT NULL,
    CONSTRAINT workflow_id_is_unique_in_its_namespace PRIMARY KEY (namespace, workflow_id),
    CONSTRAINT workflow_status_is_known CHECK (status BETWEEN 1 AND 5)
) STRICT;

CREATE INDEX workflow_in_order_of_creation ON workflow (namespace, created_log_index);
CREATE INDEX workflow_that_is_open ON workflow (namespace, created_log_index) WHERE status <= 2;

CREATE TABLE lease (
    namespace   TEXT    NOT NULL,
    workflow_id TEXT    NOT NULL,
    owner       TEXT    NOT NULL,
    epoch       INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    CONSTRAINT lease_is_one_per_workflow PRIMARY KEY (namespace, workflow_id)
) STRICT;

-- Read as one wherever a workflow is read.
CREATE VIEW workflow_and_lease AS
SELECT
    w.namespace,
    w.workflow_id,
    w.workflow_type,
    w.state,
    w.status,
    w.sequence,
    w.head_hash,
    w.checkpoint_sequence,
    w.metadata,
    w.forked_from_workflow_id,
    w.forked_from_sequence,
    w.forked_from_hash,
    w.created_log_index,
    w.created_at,
    w.updated_at,
    w.importing,
    l.owner AS lease_owner,
    l.epoch AS lease_epoch,
    l.expires_at AS lease_expires_at
FROM workflow AS w
LEFT JOIN lease AS l ON l.namespace = w.namespace AND l.workflow_id = w.workflow_id;

CREATE TABLE snapshot (
    namespace   TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    sha256      BLOB NOT NULL,
    content     BLOB NOT NULL,
    CONSTRAINT snapshot_is_kept_once_per_workflow PRIMARY KEY (namespace, workflow_id, sha256)
) STRICT;

-- One row that is rewritten when an unknown outcome is made sure of: the commit of that write settles what came before.
CREATE TABLE log_lock (
    id        INTEGER NOT NULL CONSTRAINT log_lock_is_one_row PRIMARY KEY CHECK (id = 1),
    confirmed INTEGER NOT NULL
) STRICT;
INSERT INTO log_lock (id, confirmed) VALUES (1, 0);

-- One row a batch, never updated.
CREATE TABLE log_head (
    size             INTEGER NOT NULL CONSTRAINT log_head_grows PRIMARY KEY CHECK (size > 0),
    log_id           TEXT    NOT NULL,
    last_recorded_at INTEGER NOT NULL
) STRICT;

-- A batch stores its log_head last: records beyond the newest log_head are those of the running transaction.
-- The history is append-only, for everyone. The one change there is: values that a later ERASURE record of the same
-- chain takes away may become NULL, and nothing else with them. What an ERASURE itself says stays, and so does all of
-- the log's own history. REPLACE deletes without a DELETE trigger: hence the triggers on INSERT.
CREATE TRIGGER record_is_append_only BEFORE DELETE ON record
BEGIN
    SELECT RAISE(ABORT, 'the table record is append-only');
END;

CREATE TRIGGER record_is_never_replaced BEFORE INSERT ON record
WHEN EXISTS (SELECT 1 FROM record WHERE log_index = NEW.log_index)
    OR EXISTS (
        SELECT 1
        FROM record
        WHERE namespace = NEW.namespace AND workflow_id = NEW.workflow_id AND sequence = NEW.sequence)
    OR EXISTS (SELECT 1 FROM record WHERE request_key = NEW.request_key)
BEGIN
    SELECT RAISE(ABORT, 'the table record is append-only');
END;

CREATE TRIGGER record_changes_only_by_erasure BEFORE UPDATE ON record
WHEN NOT (
    NEW.log_index = OLD.log_index AND NEW.log_id = OLD.log_id AND NEW.namespace = OLD.namespace
    AND NEW.workflow_id = OLD.workflow_id AND NEW.sequence = OLD.sequence AND NEW.kind = OLD.kind
    AND NEW.workflow_type = OLD.workflow_type AND NEW.from_state = OLD.from_state AND NEW.to_state = OLD.to_state
    AND NEW.status = OLD.status AND NEW.request_id = OLD.request_id AND NEW.request_key IS OLD.request_key
    AND NEW.lease_epoch = OLD.lease_epoch AND NEW.occurred_at = OLD.occurred_at
    AND NEW.recorded_at = OLD.recorded_at AND NEW.hash = OLD.hash AND NEW.encoded = OLD.encoded
    AND (NEW.person_salt IS NULL AND NEW.actor IS NULL AND NEW.principal IS NULL
        OR NEW.person_salt IS OLD.person_salt AND NEW.actor IS OLD.actor AND NEW.principal IS OLD.principal)
    AND (NEW.content_salt IS NULL AND NEW.reason IS NULL AND NEW.metadata IS NULL AND OLD.kind <> 4
        OR NEW.content_salt IS OLD.content_salt AND NEW.reason IS OLD.reason AND NEW.metadata IS OLD.metadata)
    AND (NEW.snapshot_salt IS NULL AND NEW.snapshot_content_type IS NULL AND NEW.snapshot_size IS NULL
            AND NEW.snapshot_sha256 IS NULL
        OR NEW.snapshot_salt IS OLD.snapshot_salt AND NEW.snapshot_content_type IS OLD.snapshot_content_type
            AND NEW.snapshot_size IS OLD.snapshot_size AND NEW.snapshot_sha256 IS OLD.snapshot_sha256)
    AND OLD.namespace <> 'aegis.system'
    AND EXISTS (
        SELECT 1
        FROM record AS erasure
        WHERE erasure.namespace = OLD.namespace
          AND erasure.workflow_id = OLD.workflow_id
          AND erasure.sequence > OLD.sequence
          AND erasure.kind = 4
          AND erasure.log_index >= (SELECT coalesce(max(size), 0) FROM log_head)))
BEGIN
    SELECT RAISE(ABORT, 'the table record is append-only');
END;

CREATE TRIGGER snapshot_is_never_replaced BEFORE INSERT ON snapshot
WHEN EXISTS (
    SELECT 1
    FROM snapshot
    WHERE namespace = NEW.namespace AND workflow_id = NEW.workflow_id AND sha256 = NEW.sha256)
BEGIN
    SELECT RAISE(ABORT, 'the table snapshot is append-only');
END;

CREATE TRIGGER snapshot_never_changes BEFORE UPDATE ON snapshot
BEGIN
    SELECT RAISE(ABORT, 'the table snapshot is append-only');
END;

CREATE TRIGGER snapshot_goes_only_by_erasure BEFORE DELETE ON snapshot
WHEN NOT EXISTS (
    SELECT 1
    FROM record AS erasure
    WHERE erasure.namespace = OLD.namespace
      AND erasure.workflow_id = OLD.workflow_id
      AND erasure.kind = 4
      AND erasure.log_index >= (SELECT coalesce(max(size), 0) FROM log_head))
BEGIN
    SELECT RAISE(ABORT, 'the table snapshot is append-only');
END;

CREATE TRIGGER log_head_is_never_replaced BEFORE INSERT ON log_head
WHEN EXISTS (SELECT 1 FROM log_head WHERE size = NEW.size)
BEGIN
    SELECT RAISE(ABORT, 'the table log_head is append-only');
END;

CREATE TRIGGER log_head_never_changes BEFORE UPDATE ON log_head
BEGIN
    SELECT RAISE(ABORT, 'the table log_head is append-only');
END;

CREATE TRIGGER log_head_is_append_only BEFORE DELETE ON log_head
BEGIN
    SELECT RAISE(ABORT, 'the table log_head is append-only');
END;
