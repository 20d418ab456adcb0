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
, rung TEXT, has_snapshot INTEGER NOT NULL DEFAULT 0, exit_cause TEXT) STRICT;
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason, wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy, created_ms, updated_ms, rung, has_snapshot, exit_cause) VALUES ('b5fc457d3d3c83', 'run', 'web', 'run', 'local', '01M81VSBEHWW4VZMC3WX3ZJXZ8', '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"rootfs":{"size_gb":8},"metadata":{"tier":"gold"},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}', x'01036eebbc0d3ffd3119ad64389260be68c87f5c5fe317dce822a070325ffb0480e292ff74cfe0897e8f7f9ed3e744c5', 'started', NULL, 'run', 1, 1, 1, 0, 0, 'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL, NULL, NULL, NULL, NULL, 0, '[]', NULL, '[]', 1800000000000, 1800000000000, 'container', 0, NULL);
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason, wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy, created_ms, updated_ms, rung, has_snapshot, exit_cause) VALUES ('64a0549e5a4c9e', 'stopped', 'web', 'stopped', 'local', '01M81VSBF01GPSXKH18ZJT3EDE', '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"rootfs":{"size_gb":8},"metadata":{"tier":"gold"},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}', x'01e202e0cd60d74ea72099f4228c17fc918a79e42b44a39e87b49ed2b80125c18e57a90918d4f0c92c940640f7cf1a6a', 'stopped', 'ended by signal 2', 'rest', 1, 1, 0, 1, 1, 'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL, NULL, NULL, 130, 2, 0, '[]', NULL, '[]', 1800000000000, 1800000000000, 'container', 0, 'app');
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason, wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy, created_ms, updated_ms, rung, has_snapshot, exit_cause) VALUES ('2b5a3443aad3d6', 'begun', 'web', 'begun', 'local', '01M81VSBHS76126X967E7TPM6Z', '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"rootfs":{"size_gb":8},"metadata":{"tier":"gold"},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}', x'010294efb7ae54ebd473ad2cc6eab1af3d5194d62d95fe617cc3564c188eccd99d0b5ef167e77eba9a568deae66f0896', 'starting', NULL, 'run', 1, 1, 1, 2, 0, 'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL, NULL, NULL, NULL, NULL, 0, '[]', NULL, '[]', 1800000000000, 1800000000000, 'container', 0, NULL);
INSERT INTO machines (id, request_id, app, name, region, instance_id, config, secrets, state, state_reason, wanted, generation, launched_generation, vm_live, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, exit_code, exit_signal, oom_killed, restarts, restart_at_ms, healthy, created_ms, updated_ms, rung, has_snapshot, exit_cause) VALUES ('d737cd2887297d', 'gone', 'web', 'gone', 'local', '01M81VSBJ86X63C6F2EWAFS3P1', '{"image":"nginx:1.25","env":{"A":"b"},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"rootfs":{"size_gb":8},"metadata":{"tier":"gold"},"services":[{"protocol":"tcp","internal_port":8080,"ports":[{"port":80,"handlers":["http"]},{"port":443,"handlers":["tls","http"]}]}],"restart":{"policy":"on-failure","max_retries":10},"stop_config":{"timeout":"5s"}}', x'', 'destroyed', NULL, 'gone', 1, 1, 0, NULL, 0, 'sha256:0909090909090909090909090909090909090909090909090909090909090909', NULL, NULL, NULL, 137, 9, 0, '[]', NULL, '[]', 1800000000000, 1800000000000, 'container', 0, 'app');
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
PRAGMA user_version = 2;
