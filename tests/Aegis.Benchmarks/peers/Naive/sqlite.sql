-- schema.sql in SQLite's dialect.

CREATE TABLE IF NOT EXISTS workflow (
    workflow_id   TEXT    NOT NULL PRIMARY KEY,
    workflow_type TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    status        INTEGER NOT NULL,
    sequence      INTEGER NOT NULL,
    created_at    TEXT    NOT NULL,
    updated_at    TEXT    NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS record (
    log_index   INTEGER PRIMARY KEY,
    workflow_id TEXT    NOT NULL,
    sequence    INTEGER NOT NULL,
    from_state  TEXT    NOT NULL,
    to_state    TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    actor       TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    request_id  TEXT,
    recorded_at TEXT    NOT NULL,
    UNIQUE (workflow_id, sequence),
    UNIQUE (workflow_id, request_id)
);

CREATE TABLE IF NOT EXISTS snapshot (
    workflow_id  TEXT    NOT NULL,
    sequence     INTEGER NOT NULL,
    content_type TEXT    NOT NULL,
    content      BLOB    NOT NULL,
    PRIMARY KEY (workflow_id, sequence)
);
