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

INSERT INTO facts (name, value) VALUES ('last_slot', 4);
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason,
    wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal,
    stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy,
    created_ms, updated_ms)
VALUES ('01020304050607', 'r1', 'web', 'web-1', 'local', '01K6ZZZZZZZZZZZZZZZZZZZZZZ',
    '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":1,"memory_mb":256},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}',
    x'00', 'started', NULL, 'run', 1, 1, 1, 4, 0,
    'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL,
    NULL, NULL, NULL, NULL, 0, '[]', NULL, '[true]', 1000, 2000);
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail)
VALUES ('01020304050607', 1, 2000, 'start', 'started', 'worker', '{"pid":1001}');
PRAGMA user_version = 1;
