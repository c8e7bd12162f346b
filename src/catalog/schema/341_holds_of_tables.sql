-- Names of local tables that are about to be distributed: statements wait that name one.
ALTER TABLE tenantry.hold ADD COLUMN tables text[] NOT NULL DEFAULT '{}';
