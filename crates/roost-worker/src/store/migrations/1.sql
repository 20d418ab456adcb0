CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

CREATE TABLE machines (
    id TEXT PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    region TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    config TEXT NOT NULL,
    secrets BLOB NOT NULL,
    state TEXT NOT NULL,
    state_reason TEXT,
    wanted TEXT NOT NULL,
    generation INTEGER NOT NULL,
    launched_generation INTEGER NOT NULL,
    vm_live INTEGER NOT NULL,
    slot INTEGER UNIQUE,
    cordoned INTEGER NOT NULL,
    image_digest TEXT,
    image_stop_signal TEXT,
    stop_signal TEXT,
    stop_timeout_ms INTEGER,
    exit_code INTEGER,
    exit_signal INTEGER,
    oom_killed INTEGER NOT NULL,
    restarts TEXT NOT NULL,
    restart_at_ms INTEGER,
    healthy TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX machines_by_name ON machines (app, name) WHERE state <> 'destroyed';

CREATE TABLE events (
    machine_id TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    source TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (machine_id, seq)
) STRICT;
