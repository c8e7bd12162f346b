-- What salts of unknown roles are made of, in every proxy and after every start: salts that changed would tell that a role is unknown.
-- Source of the idea: PostgreSQL src/backend/libpq/auth-scram.c, mock_scram_secret().
CREATE TABLE tenantry.mock_login (secret bytea NOT NULL CHECK (octet_length(secret) = 32));
INSERT INTO tenantry.mock_login SELECT pg_catalog.sha256(
    pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) || pg_catalog.uuid_send(pg_catalog.gen_random_uuid()));
