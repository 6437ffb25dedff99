-- The ledger: workflows, their records in the order of one log, snapshots and leases.
-- Times are microseconds since 1970, 0 for none. Names are compared byte by byte, whatever the locale.

CREATE TABLE record (
    log_index             bigint   NOT NULL CONSTRAINT record_has_one_place_in_the_log PRIMARY KEY,
    log_id                text     COLLATE "C" NOT NULL,
    namespace             text     COLLATE "C" NOT NULL,
    workflow_id           text     COLLATE "C" NOT NULL,
    sequence              bigint   NOT NULL,
    kind                  smallint NOT NULL,
    workflow_type         text     COLLATE "C" NOT NULL,
    from_state            text     COLLATE "C" NOT NULL,
    to_state              text     COLLATE "C" NOT NULL,
    status                smallint NOT NULL,
    request_id            text     COLLATE "C" NOT NULL,
    request_key           bytea,
    lease_epoch           bigint   NOT NULL,
    occurred_at           bigint   NOT NULL,
    recorded_at           bigint   NOT NULL,
    person_salt           bytea,
    actor                 text     COLLATE "C",
    principal             text     COLLATE "C",
    content_salt          bytea,
    reason                text,
    metadata              jsonb,
    snapshot_salt         bytea,
    snapshot_content_type text,
    snapshot_size         bigint,
    snapshot_sha256       bytea,
    hash                  bytea    NOT NULL,
    encoded               bytea    NOT NULL,
    CONSTRAINT record_is_in_the_log CHECK (log_index >= 0),
    CONSTRAINT record_is_in_a_chain CHECK (sequence >= 1),
    CONSTRAINT record_kind_is_known CHECK (kind BETWEEN 1 AND 4),
    CONSTRAINT record_status_is_known CHECK (status BETWEEN 1 AND 5),
    CONSTRAINT record_hash_is_sha256 CHECK (octet_length(hash) = 32),
    CONSTRAINT record_is_once_in_its_chain UNIQUE (namespace, workflow_id, sequence),
    CONSTRAINT record_answers_one_request UNIQUE (request_key)
);

CREATE INDEX record_of_actor ON record (namespace, actor, log_index) WHERE actor <> '';
CREATE INDEX record_of_principal ON record (namespace, principal, log_index) WHERE principal <> '';
CREATE INDEX record_in_namespace ON record (namespace, log_index);
-- What describes a snapshot can be erased; that there was one is in the encoded bytes, which end with snapshot_digest and
-- previous_hash, 32 bytes each.
CREATE INDEX record_with_snapshot ON record (namespace, workflow_id, sequence)
    WHERE substring(encoded FROM octet_length(encoded) - 63 FOR 32) <> decode(repeat('00', 32), 'hex');

-- Updated in place with every record: room in each page keeps the new version on it.
CREATE TABLE workflow (
    namespace               text     COLLATE "C" NOT NULL,
    workflow_id             text     COLLATE "C" NOT NULL,
    workflow_type           text     COLLATE "C" NOT NULL,
    state                   text     COLLATE "C" NOT NULL,
    status                  smallint NOT NULL,
    sequence                bigint   NOT NULL,
    head_hash               bytea    NOT NULL,
    checkpoint_sequence     bigint   NOT NULL,
    metadata                jsonb    NOT NULL,
    forked_from_workflow_id text     COLLATE "C",
    forked_from_sequence    bigint,
    forked_from_hash        bytea,
    created_log_index       bigint   NOT NULL,
    created_at              bigint   NOT NULL,
    updated_at              bigint   NOT NULL,
    importing               boolean  NOT NULL,
    CONSTRAINT workflow_id_is_unique_in_its_namespace PRIMARY KEY (namespace, workflow_id),
    CONSTRAINT workflow_status_is_known CHECK (status BETWEEN 1 AND 5)
) WITH (fillfactor = 50);

CREATE INDEX workflow_in_order_of_creation ON workflow (namespace, created_log_index);
CREATE INDEX workflow_that_is_open ON workflow (namespace, created_log_index) WHERE status <= 2;
CREATE INDEX workflow_with_metadata ON workflow USING gin (metadata jsonb_path_ops);

CREATE TABLE lease (
    namespace   text   COLLATE "C" NOT NULL,
    workflow_id text   COLLATE "C" NOT NULL,
    owner       text   NOT NULL,
    epoch       bigint NOT NULL,
    expires_at  bigint NOT NULL,
    CONSTRAINT lease_is_one_per_workflow PRIMARY KEY (namespace, workflow_id)
) WITH (fillfactor = 50);

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
    namespace   text  COLLATE "C" NOT NULL,
    workflow_id text  COLLATE "C" NOT NULL,
    sha256      bytea NOT NULL,
    content     bytea NOT NULL,
    CONSTRAINT snapshot_is_kept_once_per_workflow PRIMARY KEY (namespace, workflow_id, sha256)
);

-- One static row that is only ever locked: whoever holds it writes the log.
CREATE TABLE log_lock (
    id smallint NOT NULL CONSTRAINT log_lock_is_one_row PRIMARY KEY CHECK (id = 1)
);
INSERT INTO log_lock (id) VALUES (1);

-- One row a batch, never updated: a single updated row would bloat under any long snapshot.
CREATE TABLE log_head (
    size             bigint NOT NULL CONSTRAINT log_head_grows PRIMARY KEY CHECK (size > 0),
    log_id           text   COLLATE "C" NOT NULL,
    last_recorded_at bigint NOT NULL
);

-- The history is append-only, for everyone. The one change there is: values that a later ERASURE record of the same
-- chain takes away may become NULL, and nothing else with them. What an ERASURE itself says stays, and so does all of
-- the log's own history.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$body$;

-- A batch stores its log_head last: records beyond the newest log_head are those of the running transaction.
CREATE FUNCTION has_erasure_after(of_namespace text, of_workflow_id text, after_sequence bigint)
RETURNS boolean LANGUAGE sql STABLE AS $body$
    SELECT EXISTS (
        SELECT 1
        FROM record
        WHERE namespace = of_namespace
          AND workflow_id = of_workflow_id
          AND sequence > after_sequence
          AND kind = 4
          AND log_index >= (SELECT coalesce(max(size), 0) FROM log_head))
$body$;

CREATE FUNCTION allow_erasure_of_record() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF (to_jsonb(NEW) - ARRAY['person_salt', 'actor', 'principal', 'content_salt', 'reason', 'metadata',
            'snapshot_salt', 'snapshot_content_type', 'snapshot_size', 'snapshot_sha256'])
        = (to_jsonb(OLD) - ARRAY['person_salt', 'actor', 'principal', 'content_salt', 'reason', 'metadata',
            'snapshot_salt', 'snapshot_content_type', 'snapshot_size', 'snapshot_sha256'])
       AND (NEW.person_salt IS NULL AND NEW.actor IS NULL AND NEW.principal IS NULL
            OR (NEW.person_salt, NEW.actor, NEW.principal)
                IS NOT DISTINCT FROM (OLD.person_salt, OLD.actor, OLD.principal))
       AND (NEW.content_salt IS NULL AND NEW.reason IS NULL AND NEW.metadata IS NULL AND OLD.kind <> 4
            OR (NEW.content_salt, NEW.reason, NEW.metadata)
                IS NOT DISTINCT FROM (OLD.content_salt, OLD.reason, OLD.metadata))
       AND (NEW.snapshot_salt IS NULL AND NEW.snapshot_content_type IS NULL AND NEW.snapshot_size IS NULL
                AND NEW.snapshot_sha256 IS NULL
            OR (NEW.snapshot_salt, NEW.snapshot_content_type, NEW.snapshot_size, NEW.snapshot_sha256)
                IS NOT DISTINCT FROM
                (OLD.snapshot_salt, OLD.snapshot_content_type, OLD.snapshot_size, OLD.snapshot_sha256))
       AND OLD.namespace <> 'aegis.system'
       AND has_erasure_after(OLD.namespace, OLD.workflow_id, OLD.sequence)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the table record is append-only' USING ERRCODE = 'restrict_violation';
END
$body$;

CREATE FUNCTION allow_erasure_of_snapshot() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF has_erasure_after(OLD.namespace, OLD.workflow_id, 0) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the table snapshot is append-only' USING ERRCODE = 'restrict_violation';
END
$body$;

CREATE TRIGGER record_is_append_only BEFORE DELETE ON record
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER record_changes_only_by_erasure BEFORE UPDATE ON record
    FOR EACH ROW EXECUTE FUNCTION allow_erasure_of_record();
CREATE TRIGGER record_is_never_truncated BEFORE TRUNCATE ON record
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER snapshot_never_changes BEFORE UPDATE ON snapshot
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER snapshot_goes_only_by_erasure BEFORE DELETE ON snapshot
    FOR EACH ROW EXECUTE FUNCTION allow_erasure_of_snapshot();
CREATE TRIGGER snapshot_is_never_truncated BEFORE TRUNCATE ON snapshot
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_head_is_append_only BEFORE UPDATE OR DELETE ON log_head
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_head_is_never_truncated BEFORE TRUNCATE ON log_head
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
