-- The log: every record a leaf of one Merkle tree, its heads signed, what verification found kept outside of it.

-- Of each head the tree it stands for: root, the hashes of its complete subtrees (frontier, the largest first), and the head as
-- it was signed. Heads of the version before have none of them.
ALTER TABLE log_head ADD COLUMN root BLOB;
ALTER TABLE log_head ADD COLUMN frontier BLOB;
ALTER TABLE log_head ADD COLUMN signed_note TEXT;

-- 256 neighbouring hashes of one level, written once they are all there. Level 0: the hashes of records, and with them the
-- encoded records, each with its length (4 bytes, big-endian) before it: what was recorded, kept with its leaf. Levels above:
-- the roots of the tiles below.
CREATE TABLE log_tile (
    level      INTEGER NOT NULL,
    tile_index INTEGER NOT NULL,
    root       BLOB    NOT NULL,
    hashes     BLOB    NOT NULL,
    entries    BLOB,
    CONSTRAINT log_tile_has_one_place_in_the_tree PRIMARY KEY (level, tile_index),
    CONSTRAINT log_tile_root_is_sha256 CHECK (length(root) = 32),
    CONSTRAINT log_tile_has_256_hashes CHECK (length(hashes) = 8192)
) STRICT;

-- What verification found. Outside the log, since it must be had when the log takes no writes; whoever deletes a row has the
-- auditor find the same again. Differences are a JSON array of {field, original, found}, without values of erasable parts.
-- recorded_at: when a QUARANTINED record told of it. What was repaired is opened again when it is found again, what was only
-- released is not.
CREATE TABLE violation (
    number             INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    violation_id       TEXT    NOT NULL CONSTRAINT violation_is_told_once UNIQUE,
    class              INTEGER NOT NULL,
    namespace          TEXT    NOT NULL,
    workflow_id        TEXT    NOT NULL,
    sequence           INTEGER NOT NULL,
    log_index          INTEGER,
    expected_hash      BLOB,
    actual_hash        BLOB,
    differences        TEXT    NOT NULL,
    message            TEXT    NOT NULL,
    last_good_log_size INTEGER NOT NULL,
    found_at           INTEGER NOT NULL,
    recorded_at        INTEGER NOT NULL DEFAULT 0,
    released_at        INTEGER NOT NULL DEFAULT 0,
    is_repaired        INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX violation_that_is_open ON violation (namespace, workflow_id) WHERE released_at = 0;

-- How far the scrub has come, as a note signed with the log's key: a position that someone else moved is not believed.
CREATE TABLE audit_position (
    id          INTEGER NOT NULL CONSTRAINT audit_position_is_one_row PRIMARY KEY CHECK (id = 1),
    signed_note TEXT    NOT NULL
) STRICT;

DROP VIEW workflow_and_lease;
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
    l.expires_at AS lease_expires_at,
    w.namespace <> 'aegis.system' AND EXISTS (
        SELECT 1
        FROM violation AS v
        WHERE v.released_at = 0 AND v.namespace = w.namespace AND v.workflow_id = w.workflow_id) AS quarantined
FROM workflow AS w
LEFT JOIN lease AS l ON l.namespace = w.namespace AND l.workflow_id = w.workflow_id;

-- Besides an erasure, a repair may change the history: it takes away what stands at a place that a REPAIRED record of the same
-- transaction names, by namespace, workflow_id and sequence or among its log_indexes ("5,7"), and puts back what was recorded.
-- What the repair stores has to verify, and verification decides, not the database.
DROP TRIGGER record_is_append_only;
CREATE TRIGGER record_is_append_only BEFORE DELETE ON record
WHEN NOT EXISTS (
        SELECT 1
        FROM record AS repair
        WHERE repair.namespace = 'aegis.system'
          AND repair.workflow_id = 'log'
          AND repair.to_state = 'REPAIRED'
          AND repair.log_index >= (SELECT coalesce(max(size), 0) FROM log_head)
          AND (instr(',' || (repair.metadata ->> 'log_indexes') || ',', ',' || OLD.log_index || ',') > 0
            OR repair.metadata ->> 'namespace' = OLD.namespace
                AND repair.metadata ->> 'workflow_id' = OLD.workflow_id
                AND repair.metadata ->> 'sequence' = CAST(OLD.sequence AS TEXT)))
BEGIN
    SELECT RAISE(ABORT, 'the table record is append-only');
END;

DROP TRIGGER snapshot_never_changes;
CREATE TRIGGER snapshot_never_changes BEFORE UPDATE ON snapshot
WHEN NOT EXISTS (
        SELECT 1
        FROM record AS repair
        WHERE repair.namespace = 'aegis.system'
          AND repair.workflow_id = 'log'
          AND repair.to_state = 'REPAIRED'
          AND repair.log_index >= (SELECT coalesce(max(size), 0) FROM log_head)
          AND repair.metadata ->> 'namespace' = OLD.namespace
          AND repair.metadata ->> 'workflow_id' = OLD.workflow_id)
BEGIN
    SELECT RAISE(ABORT, 'the table snapshot is append-only');
END;

CREATE TRIGGER log_tile_is_never_replaced BEFORE INSERT ON log_tile
WHEN EXISTS (SELECT 1 FROM log_tile WHERE level = NEW.level AND tile_index = NEW.tile_index)
BEGIN
    SELECT RAISE(ABORT, 'the table log_tile is append-only');
END;

CREATE TRIGGER log_tile_never_changes BEFORE UPDATE ON log_tile
WHEN NOT EXISTS (
        SELECT 1
        FROM record AS repair
        WHERE repair.namespace = 'aegis.system'
          AND repair.workflow_id = 'log'
          AND repair.to_state = 'REPAIRED'
          AND repair.log_index >= (SELECT coalesce(max(size), 0) FROM log_head)
          AND repair.metadata ->> 'namespace' = 'aegis.system'
          AND repair.metadata ->> 'workflow_id' = 'log'
          AND repair.metadata ->> 'sequence' = '0')
BEGIN
    SELECT RAISE(ABORT, 'the table log_tile is append-only');
END;

CREATE TRIGGER log_tile_is_append_only BEFORE DELETE ON log_tile
WHEN NOT EXISTS (
        SELECT 1
        FROM record AS repair
        WHERE repair.namespace = 'aegis.system'
          AND repair.workflow_id = 'log'
          AND repair.to_state = 'REPAIRED'
          AND repair.log_index >= (SELECT coalesce(max(size), 0) FROM log_head)
          AND repair.metadata ->> 'namespace' = 'aegis.system'
          AND repair.metadata ->> 'workflow_id' = 'log'
          AND repair.metadata ->> 'sequence' = '0')
BEGIN
    SELECT RAISE(ABORT, 'the table log_tile is append-only');
END;
