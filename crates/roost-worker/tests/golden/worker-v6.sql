CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO facts (name, value) VALUES ('last_slot', 3);
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
, rung TEXT, has_snapshot INTEGER NOT NULL DEFAULT 0, exit_cause TEXT, process_group TEXT NOT NULL DEFAULT 'app', cpu_kind TEXT NOT NULL DEFAULT 'shared', cpus INTEGER NOT NULL DEFAULT 1, memory_mb INTEGER NOT NULL DEFAULT 256, due_ms INTEGER, n_passed_over INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason, wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy, created_ms, updated_ms, rung, has_snapshot, exit_cause, process_group, cpu_kind, cpus, memory_mb, due_ms, n_passed_over) VALUES ('b5fc457d3d3c83', 'run', 'web', 'run', 'local', '01M81VSBEHWW4VZMC3WX3ZJXZ8', '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"rootfs":{"size_gb":8},"metadata":{"tier":"gold"},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}', x'01036eebbc0d3ffd3119ad64389260be68c87f5c5fe317dce822a070325ffb0480e292ff74cfe0897e8f7f9ed3e744c5', 'started', NULL, 'run', 1, 1, 1, 0, 0, 'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL, NULL, NULL, NULL, NULL, 0, '[]', NULL, '[]', 1800000000000, 1800000000000, 'container', 0, NULL, 'app', 'shared', 2, 512, NULL, 0);
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason, wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy, created_ms, updated_ms, rung, has_snapshot, exit_cause, process_group, cpu_kind, cpus, memory_mb, due_ms, n_passed_over) VALUES ('64a0549e5a4c9e', 'stopped', 'web', 'stopped', 'local', '01M81VSBF01GPSXKH18ZJT3EDE', '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"rootfs":{"size_gb":8},"metadata":{"tier":"gold"},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}', x'01e202e0cd60d74ea72099f4228c17fc918a79e42b44a39e87b49ed2b80125c18e57a90918d4f0c92c940640f7cf1a6a', 'stopped', 'ended by signal 2', 'rest', 1, 1, 0, 1, 1, 'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL, NULL, NULL, 130, 2, 0, '[]', NULL, '[]', 1800000000000, 1800000000000, 'container', 0, 'app', 'app', 'shared', 2, 512, NULL, 0);
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason, wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy, created_ms, updated_ms, rung, has_snapshot, exit_cause, process_group, cpu_kind, cpus, memory_mb, due_ms, n_passed_over) VALUES ('2b5a3443aad3d6', 'begun', 'web', 'begun', 'local', '01M81VSBHS76126X967E7TPM6Z', '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"rootfs":{"size_gb":8},"metadata":{"tier":"gold"},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}', x'010294efb7ae54ebd473ad2cc6eab1af3d5194d62d95fe617cc3564c188eccd99d0b5ef167e77eba9a568deae66f0896', 'starting', NULL, 'run', 1, 1, 1, 2, 0, 'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL, NULL, NULL, NULL, NULL, 0, '[]', NULL, '[]', 1800000000000, 1800000000000, 'container', 0, NULL, 'app', 'shared', 2, 512, NULL, 0);
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason, wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy, created_ms, updated_ms, rung, has_snapshot, exit_cause, process_group, cpu_kind, cpus, memory_mb, due_ms, n_passed_over) VALUES ('d737cd2887297d', 'gone', 'web', 'gone', 'local', '01M81VSBJ86X63C6F2EWAFS3P1', '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"rootfs":{"size_gb":8},"metadata":{"tier":"gold"},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}', x'', 'destroyed', NULL, 'gone', 1, 1, 0, NULL, 0, 'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL, NULL, NULL, 137, 9, 0, '[]', NULL, '[]', 1800000000000, 1800000000000, 'container', 0, 'app', 'app', 'shared', 2, 512, NULL, 0);
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
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('b5fc457d3d3c83', 1, 1800000000000, 'create', 'created', 'user', '{"cause":{"kind":"user","name":"ann","token":"tok_1"}}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('b5fc457d3d3c83', 2, 1800000000000, 'launch', 'starting', 'worker', '{"image_digest":"sha256:0909090909090909090909090909090909090909090909090909090909090909","rung":"container"}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('b5fc457d3d3c83', 3, 1800000000000, 'start', 'started', 'worker', '{"pid":1001}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('64a0549e5a4c9e', 1, 1800000000000, 'create', 'created', 'user', '{"cause":{"kind":"user","name":"ann","token":"tok_1"}}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('64a0549e5a4c9e', 2, 1800000000000, 'launch', 'starting', 'worker', '{"image_digest":"sha256:0909090909090909090909090909090909090909090909090909090909090909","rung":"container"}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('64a0549e5a4c9e', 3, 1800000000000, 'start', 'started', 'worker', '{"pid":1002}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('64a0549e5a4c9e', 4, 1800000000000, 'stop', 'stopping', 'user', '{"cause":{"kind":"user","name":"ann","token":"tok_1"}}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('64a0549e5a4c9e', 5, 1800000000000, 'exit', 'stopped', 'worker', '{"exit_event":{"cause":"app","exit_code":130,"exited_at":1800000000000,"guest_exit_code":130,"guest_signal":2,"oom_killed":false,"requested_stop":true,"restarting":false,"signal":2},"reason":"ended by signal 2","restart_count":0}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('64a0549e5a4c9e', 6, 1800000000000, 'cordon', 'stopped', 'user', '{"cause":{"kind":"user","name":"ann","token":"tok_1"}}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('2b5a3443aad3d6', 1, 1800000000000, 'create', 'created', 'user', '{"cause":{"kind":"user","name":"ann","token":"tok_1"}}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('2b5a3443aad3d6', 2, 1800000000000, 'launch', 'starting', 'worker', '{"image_digest":"sha256:0909090909090909090909090909090909090909090909090909090909090909","rung":"container"}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('d737cd2887297d', 1, 1800000000000, 'create', 'created', 'user', '{"cause":{"kind":"user","name":"ann","token":"tok_1"}}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('d737cd2887297d', 2, 1800000000000, 'launch', 'starting', 'worker', '{"image_digest":"sha256:0909090909090909090909090909090909090909090909090909090909090909","rung":"container"}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('d737cd2887297d', 3, 1800000000000, 'start', 'started', 'worker', '{"pid":1004}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('d737cd2887297d', 4, 1800000000000, 'destroy', 'started', 'user', '{"cause":{"kind":"user","name":"ann","token":"tok_1"}}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('d737cd2887297d', 5, 1800000000000, 'exit', 'stopped', 'worker', '{"exit_event":{"cause":"app","exit_code":137,"exited_at":1800000000000,"guest_exit_code":137,"guest_signal":9,"oom_killed":false,"requested_stop":true,"restarting":false,"signal":9},"reason":"ended by signal 9","restart_count":0}');
INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES ('d737cd2887297d', 6, 1800000000000, 'destroyed', 'destroyed', 'worker', '{}');
CREATE INDEX machines_by_size ON machines (cpu_kind, cpus, memory_mb, state) WHERE state <> 'destroyed';
CREATE INDEX machines_by_group ON machines (app, process_group, state) WHERE state <> 'destroyed';
CREATE TABLE reservations (
    id TEXT PRIMARY KEY,
    cpu_kind TEXT NOT NULL,
    cpus INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
INSERT INTO reservations (id, cpu_kind, cpus, memory_mb, expires_ms) VALUES ('rsv_00000000020000000000000002', 'shared', 1, 256, 1800000600000);
CREATE TABLE runs (
    -- The order in which runs were recorded: the clock may be set back.
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    version INTEGER NOT NULL,
    subject TEXT NOT NULL,
    key TEXT UNIQUE,
    parent TEXT REFERENCES runs (id) ON DELETE CASCADE,
    cause TEXT NOT NULL,
    params TEXT NOT NULL,
    status TEXT NOT NULL,
    turn TEXT,
    reason TEXT,
    cancel_at_ms INTEGER,
    cancel_turn TEXT,
    cancel_reason TEXT,
    is_past_point INTEGER NOT NULL DEFAULT 0,
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    ended_ms INTEGER,
    epoch INTEGER NOT NULL DEFAULT 0,
    holder TEXT,
    lease_until_ms INTEGER,
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO runs (ordinal, id, workflow, version, subject, key, parent, cause, params, status, turn, reason, cancel_at_ms, cancel_turn, cancel_reason, is_past_point, created_ms, started_ms, ended_ms, epoch, holder, lease_until_ms, revision) VALUES (1, 'run_01M81VSBEJ2KGQ312NY0BJA7NM', 'create', 1, 'machine/b5fc457d3d3c83', NULL, NULL, '{"kind":"user","name":"ann","token":"tok_1"}', 'null', 'succeeded', NULL, NULL, NULL, NULL, NULL, 0, 1800000000000, 1800000000000, 1800000000000, 1, NULL, NULL, 9);
INSERT INTO runs (ordinal, id, workflow, version, subject, key, parent, cause, params, status, turn, reason, cancel_at_ms, cancel_turn, cancel_reason, is_past_point, created_ms, started_ms, ended_ms, epoch, holder, lease_until_ms, revision) VALUES (2, 'run_01M81VSBF1GBQ82CPAMCN7SFPE', 'create', 1, 'machine/64a0549e5a4c9e', NULL, NULL, '{"kind":"user","name":"ann","token":"tok_1"}', 'null', 'superseded', 'superseded', 'gave way to stop (run_01M81VSBFK1E5PBMWKYPSDCAWC)', NULL, NULL, NULL, 0, 1800000000000, 1800000000000, 1800000000000, 1, NULL, NULL, 14);
INSERT INTO runs (ordinal, id, workflow, version, subject, key, parent, cause, params, status, turn, reason, cancel_at_ms, cancel_turn, cancel_reason, is_past_point, created_ms, started_ms, ended_ms, epoch, holder, lease_until_ms, revision) VALUES (3, 'run_01M81VSBFK1E5PBMWKYPSDCAWC', 'stop', 1, 'machine/64a0549e5a4c9e', NULL, NULL, '{"kind":"user","name":"ann","token":"tok_1"}', 'null', 'succeeded', NULL, NULL, NULL, NULL, NULL, 0, 1800000000000, 1800000000000, 1800000000000, 1, NULL, NULL, 21);
INSERT INTO runs (ordinal, id, workflow, version, subject, key, parent, cause, params, status, turn, reason, cancel_at_ms, cancel_turn, cancel_reason, is_past_point, created_ms, started_ms, ended_ms, epoch, holder, lease_until_ms, revision) VALUES (4, 'run_01M81VSBHT2JBKMK777RK36YNM', 'create', 1, 'machine/2b5a3443aad3d6', NULL, NULL, '{"kind":"user","name":"ann","token":"tok_1"}', 'null', 'running', NULL, NULL, NULL, NULL, NULL, 0, 1800000000000, 1800000000000, NULL, 1, 'worker', 1800000000000, 26);
INSERT INTO runs (ordinal, id, workflow, version, subject, key, parent, cause, params, status, turn, reason, cancel_at_ms, cancel_turn, cancel_reason, is_past_point, created_ms, started_ms, ended_ms, epoch, holder, lease_until_ms, revision) VALUES (5, 'run_01M81VSBJ898CFJEQTSW4PJ1MS', 'create', 1, 'machine/d737cd2887297d', NULL, NULL, '{"kind":"user","name":"ann","token":"tok_1"}', 'null', 'superseded', 'superseded', 'gave way to destroy (run_01M81VSBJTBTP4JXDZEYJ0XAHW)', NULL, NULL, NULL, 0, 1800000000000, 1800000000000, 1800000000000, 1, NULL, NULL, 33);
INSERT INTO runs (ordinal, id, workflow, version, subject, key, parent, cause, params, status, turn, reason, cancel_at_ms, cancel_turn, cancel_reason, is_past_point, created_ms, started_ms, ended_ms, epoch, holder, lease_until_ms, revision) VALUES (6, 'run_01M81VSBJTBTP4JXDZEYJ0XAHW', 'destroy', 1, 'machine/d737cd2887297d', NULL, NULL, '{"kind":"user","name":"ann","token":"tok_1"}', 'null', 'succeeded', NULL, NULL, NULL, NULL, NULL, 0, 1800000000000, 1800000000000, 1800000000000, 1, NULL, NULL, 40);
CREATE INDEX runs_by_subject ON runs (subject, ordinal);
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_by_revision ON runs (revision);
CREATE INDEX runs_unfinished ON runs (ordinal) WHERE ended_ms IS NULL;
CREATE UNIQUE INDEX runs_active ON runs (subject) WHERE status IN ('running', 'undoing');
CREATE TABLE run_steps (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    step TEXT NOT NULL,
    direction TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    outcome TEXT,
    reason TEXT,
    output TEXT,
    retry_at_ms INTEGER,
    PRIMARY KEY (run_id, seq)
) STRICT;
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBEJ2KGQ312NY0BJA7NM', 1, 'resolve_image', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBEJ2KGQ312NY0BJA7NM', 2, 'launch', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBF1GBQ82CPAMCN7SFPE', 1, 'resolve_image', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBF1GBQ82CPAMCN7SFPE', 2, 'launch', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBFK1E5PBMWKYPSDCAWC', 1, 'drain', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBFK1E5PBMWKYPSDCAWC', 2, 'signal', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBHT2JBKMK777RK36YNM', 1, 'resolve_image', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBHT2JBKMK777RK36YNM', 2, 'launch', 'do', 1, 1800000000000, NULL, NULL, NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBJ898CFJEQTSW4PJ1MS', 1, 'resolve_image', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBJ898CFJEQTSW4PJ1MS', 2, 'launch', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBJTBTP4JXDZEYJ0XAHW', 1, 'kill', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
INSERT INTO run_steps (run_id, seq, step, direction, attempt, started_ms, ended_ms, outcome, reason, output, retry_at_ms) VALUES ('run_01M81VSBJTBTP4JXDZEYJ0XAHW', 2, 'remove', 'do', 1, 1800000000000, 1800000000000, 'done', NULL, NULL, NULL);
CREATE TABLE run_revision (newest INTEGER NOT NULL) STRICT;
INSERT INTO run_revision (newest) VALUES (40);
CREATE TABLE leases (
    machine_id TEXT PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
    nonce_hash TEXT NOT NULL,
    owner TEXT NOT NULL,
    description TEXT NOT NULL,
    version TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
INSERT INTO leases (machine_id, nonce_hash, owner, description, version, expires_ms) VALUES ('b5fc457d3d3c83', '9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f', 'ann', 'a migration', '01M81VSBEHWW4VZMC3WX3ZJXZ8', 1800000600000);
CREATE INDEX machines_by_due ON machines (due_ms) WHERE due_ms IS NOT NULL;
PRAGMA user_version = 6;
