-- The plain tables of a service that keeps the same facts without proof: no hash, no signature, no order but the identity's.

CREATE TABLE IF NOT EXISTS workflow (
    workflow_id   text        NOT NULL CONSTRAINT workflow_id_is_unique PRIMARY KEY,
    workflow_type text        NOT NULL,
    state         text        NOT NULL,
    status        smallint    NOT NULL,
    sequence      bigint      NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50); -- Updated in place: room in each page keeps the new version on it.

CREATE TABLE IF NOT EXISTS record (
    log_index   bigint      GENERATED ALWAYS AS IDENTITY CONSTRAINT record_has_one_place PRIMARY KEY,
    workflow_id text        NOT NULL,
    sequence    bigint      NOT NULL,
    from_state  text        NOT NULL,
    to_state    text        NOT NULL,
    status      smallint    NOT NULL,
    actor       text        NOT NULL,
    reason      text        NOT NULL,
    request_id  text,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT record_is_once_in_its_history UNIQUE (workflow_id, sequence),
    CONSTRAINT record_answers_one_request UNIQUE (workflow_id, request_id)
);

-- That of a record has the record's sequence.
CREATE TABLE IF NOT EXISTS snapshot (
    workflow_id  text   NOT NULL,
    sequence     bigint NOT NULL,
    content_type text   NOT NULL,
    content      bytea  NOT NULL,
    CONSTRAINT snapshot_is_once_in_its_history PRIMARY KEY (workflow_id, sequence)
);
