-- What machines take of the node, so that an index alone sums it up, and room
-- that is held for machines to come. Machines without a guest have the default size.
ALTER TABLE machines ADD COLUMN process_group TEXT NOT NULL DEFAULT 'app';
ALTER TABLE machines ADD COLUMN cpu_kind TEXT NOT NULL DEFAULT 'shared';
ALTER TABLE machines ADD COLUMN cpus INTEGER NOT NULL DEFAULT 1;
ALTER TABLE machines ADD COLUMN memory_mb INTEGER NOT NULL DEFAULT 256;
UPDATE machines SET
    process_group = COALESCE(json_extract(config, '$.metadata.fly_process_group'), 'app'),
    cpu_kind = COALESCE(json_extract(config, '$.guest.cpu_kind'), 'shared'),
    cpus = COALESCE(json_extract(config, '$.guest.cpus'), 1),
    memory_mb = COALESCE(json_extract(config, '$.guest.memory_mb'), 256);
CREATE INDEX machines_by_size ON machines (cpu_kind, cpus, memory_mb, state) WHERE state <> 'destroyed';
CREATE INDEX machines_by_group ON machines (app, process_group, state) WHERE state <> 'destroyed';

CREATE TABLE reservations (
    id TEXT PRIMARY KEY,
    cpu_kind TEXT NOT NULL,
    cpus INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
