-- The canary of a deployment, and what became of it: JSON.
ALTER TABLE deployments ADD COLUMN canary TEXT;
