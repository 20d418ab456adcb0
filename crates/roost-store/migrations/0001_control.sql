-- The control database. Times are milliseconds since the epoch, ids are text.

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE apps (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    current_release BIGINT,
    next_release BIGINT NOT NULL DEFAULT 1,
    secrets_version BIGINT NOT NULL DEFAULT 0
);

-- Image and config never change; status does.
CREATE TABLE releases (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    image TEXT NOT NULL,
    image_digest TEXT,
    config TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (app_id, version)
);

CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    release_version BIGINT NOT NULL,
    status TEXT NOT NULL,
    batches TEXT NOT NULL,
    wait_timeout_ms BIGINT NOT NULL,
    error TEXT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX deployments_by_app ON deployments (app_id, created_at);
-- One deployment per app at a time, whatever the callers do.
CREATE UNIQUE INDEX deployments_unfinished ON deployments (app_id) WHERE finished_at IS NULL;

-- The journal: where each slot of a deployment is.
CREATE TABLE deployment_slots (
    deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    old_machine TEXT,
    old_ran BIGINT NOT NULL,
    makes_new BIGINT NOT NULL,
    new_machine TEXT,
    phase TEXT NOT NULL,
    PRIMARY KEY (deployment_id, idx)
);

CREATE TABLE deployment_steps (
    deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    name TEXT NOT NULL,
    machine TEXT,
    status TEXT NOT NULL,
    message TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (deployment_id, seq)
);

CREATE TABLE secrets (
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    sealed BLOB NOT NULL,
    digest TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (app_id, name)
);

-- `outcome` is NULL while the request is under way.
CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    outcome TEXT,
    expires_at BIGINT NOT NULL
);
