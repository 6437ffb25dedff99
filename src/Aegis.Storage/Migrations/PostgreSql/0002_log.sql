-- The log: every record a leaf of one Merkle tree, its heads signed, what verification found kept outside of it.

-- Of each head the tree it stands for: root, the hashes of its complete subtrees (frontier, the largest first), and the head as
-- it was signed. Heads of the version before have none of them.
ALTER TABLE log_head ADD COLUMN root bytea, ADD COLUMN frontier bytea, ADD COLUMN signed_note text;

-- 256 neighbouring hashes of one level, written once they are all there. Level 0: the hashes of records, and with them the
-- encoded records, each with its length (4 bytes, big-endian) before it: what was recorded, kept with its leaf. Levels above:
-- the roots of the tiles below. Nothing here can be compressed.
CREATE TABLE log_tile (
    level      smallint NOT NULL,
    tile_index bigint   NOT NULL,
    root       bytea    NOT NULL,
    hashes     bytea    NOT NULL,
    entries    bytea,
    CONSTRAINT log_tile_has_one_place_in_the_tree PRIMARY KEY (level, tile_index),
    CONSTRAINT log_tile_root_is_sha256 CHECK (octet_length(root) = 32),
    CONSTRAINT log_tile_has_256_hashes CHECK (octet_length(hashes) = 8192)
);
ALTER TABLE log_tile ALTER COLUMN hashes SET STORAGE EXTERNAL, ALTER COLUMN entries SET STORAGE EXTERNAL;

-- What verification found. Outside the log, since it must be had when the log takes no writes; whoever deletes a row has the
-- auditor find the same again. Differences are a JSON array of {field, original, found}, without values of erasable parts.
-- recorded_at: when a QUARANTINED record told of it. What was repaired is opened again when it is found again, what was only
-- released is not.
CREATE TABLE violation (
    number             bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    violation_id       text     COLLATE "C" NOT NULL,
    class              smallint NOT NULL,
    namespace          text     COLLATE "C" NOT NULL,
    workflow_id        text     COLLATE "C" NOT NULL,
    sequence           bigint   NOT NULL,
    log_index          bigint,
    expected_hash      bytea,
    actual_hash        bytea,
    differences        jsonb    NOT NULL,
    message            text     NOT NULL,
    last_good_log_size bigint   NOT NULL,
    found_at           bigint   NOT NULL,
    recorded_at        bigint   NOT NULL DEFAULT 0,
    released_at        bigint   NOT NULL DEFAULT 0,
    is_repaired        boolean  NOT NULL DEFAULT false,
    CONSTRAINT violation_is_told_once UNIQUE (violation_id)
);
CREATE INDEX violation_that_is_open ON violation (namespace, workflow_id) WHERE released_at = 0;

-- How far the scrub has come, as a note signed with the log's key: a position that someone else moved is not believed.
CREATE TABLE audit_position (
    id          smallint NOT NULL CONSTRAINT audit_position_is_one_row PRIMARY KEY CHECK (id = 1),
    signed_note text     NOT NULL
);

CREATE OR REPLACE VIEW workflow_and_lease AS
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
CREATE FUNCTION has_repair_of(of_namespace text, of_workflow_id text, of_sequence bigint, of_log_index bigint)
RETURNS boolean LANGUAGE sql STABLE AS $body$
    SELECT EXISTS (
        SELECT 1
        FROM record
        WHERE namespace = 'aegis.system'
          AND workflow_id = 'log'
          AND to_state = 'REPAIRED'
          AND log_index >= (SELECT coalesce(max(size), 0) FROM log_head)
          AND (position(',' || of_log_index || ',' IN ',' || (metadata ->> 'log_indexes') || ',') > 0
              OR metadata ->> 'namespace' = of_namespace
                  AND metadata ->> 'workflow_id' = of_workflow_id
                  AND (of_sequence IS NULL OR metadata ->> 'sequence' = of_sequence::text)))
$body$;

CREATE FUNCTION allow_repair_of_record() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF has_repair_of(OLD.namespace, OLD.workflow_id, OLD.sequence, OLD.log_index) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$body$;

CREATE FUNCTION allow_repair_of_snapshot() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF has_repair_of(OLD.namespace, OLD.workflow_id, NULL, NULL) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$body$;

DROP TRIGGER record_is_append_only ON record;
CREATE TRIGGER record_is_append_only BEFORE DELETE ON record
    FOR EACH ROW EXECUTE FUNCTION allow_repair_of_record();
DROP TRIGGER snapshot_never_changes ON snapshot;
CREATE TRIGGER snapshot_never_changes BEFORE UPDATE ON snapshot
    FOR EACH ROW EXECUTE FUNCTION allow_repair_of_snapshot();

CREATE FUNCTION allow_repair_of_log() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF has_repair_of('aegis.system', 'log', 0, NULL) THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$body$;
CREATE TRIGGER log_tile_is_append_only BEFORE UPDATE OR DELETE ON log_tile
    FOR EACH ROW EXECUTE FUNCTION allow_repair_of_log();
CREATE TRIGGER log_tile_is_never_truncated BEFORE TRUNCATE ON log_tile
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
