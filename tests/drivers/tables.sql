-- What each program of this folder works on: the same columns in a table of each kind. psql's variables:
--   schema       of the program
--   distributed  on: through Tenantry; off: one Postgres, which shows that the program itself is right
-- Role app, which logs in with a password, is there where it is on.

CREATE SCHEMA :"schema";
SET search_path = :"schema";
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE orders (
    tenant int NOT NULL,
    id int NOT NULL,
    name text CONSTRAINT name_is_not_empty CHECK (name <> ''),
    amount numeric(12, 3),
    ratio double precision,
    big bigint,
    flag boolean,
    day date,
    clock time,
    wall timestamp,
    at timestamptz,
    span interval,
    key uuid,
    doc jsonb,
    written json,
    data bytea,
    tags text[],
    numbers int[],
    feeling mood,
    PRIMARY KEY (tenant, id)
);
CREATE TABLE products (LIKE orders INCLUDING ALL);
CREATE TABLE notes (LIKE orders INCLUDING ALL);
\if :distributed
SELECT create_distributed_table('orders', 'tenant');
GRANT USAGE ON SCHEMA :"schema" TO app;
SELECT create_reference_table('products');
GRANT SELECT ON orders TO app;
GRANT SELECT ON products TO app;
\endif
CREATE INDEX orders_by_name ON orders (name);
