-- The version of the machine that its config here is of. None while a change is asked for: its
-- node tells what came of it.
ALTER TABLE placements ADD COLUMN version TEXT;
-- Whether new traffic is kept from it.
ALTER TABLE placements ADD COLUMN is_cordoned BIGINT NOT NULL DEFAULT 0;
-- Since when its removal is asked for and the answer not known.
ALTER TABLE placements ADD COLUMN leaving_since BIGINT;
UPDATE placements SET leaving_since = placed_at WHERE is_leaving = 1;
ALTER TABLE placements DROP COLUMN is_leaving;
