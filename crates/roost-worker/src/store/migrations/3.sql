-- What machines take of the node, summed up by an index alone, and room that
-- is held for machines to come. Machines without a guest are of the default size.
ALTER TABLE machines ADD COLUMN cpu_kind TEXT GENERATED ALWAYS AS (COALESCE(json_extract(config, '$.guest.cpu_kind'), 'shared')) VIRTUAL;
ALTER TABLE machines ADD COLUMN cpus INTEGER GENERATED ALWAYS AS (COALESCE(json_extract(config, '$.guest.cpus'), 1)) VIRTUAL;
ALTER TABLE machines ADD COLUMN memory_mb INTEGER GENERATED ALWAYS AS (COALESCE(json_extract(config, '$.guest.memory_mb'), 256)) VIRTUAL;
ALTER TABLE machines ADD COLUMN process_group TEXT GENERATED ALWAYS AS (COALESCE(json_extract(config, '$.metadata.fly_process_group'), 'app')) VIRTUAL;
CREATE INDEX machines_by_size ON machines (cpu_kind, cpus, memory_mb) WHERE state <> 'destroyed';
CREATE INDEX machines_by_group ON machines (app, process_group) WHERE state <> 'destroyed';

CREATE TABLE reservations (
    id TEXT PRIMARY KEY,
    cpu_kind TEXT NOT NULL,
    cpus INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
