-- What SET refuses in the words of Postgres.
SET CATALOG 'other';
SET LOCAL CATALOG 'other';
  SET SESSION CATALOG 'other' behind;
SET CATALOG other;
SET catalog = 'other';
SET client_encoding = 'UTF9';
SET NAMES 'nothing';
SELECT set_config('client_encoding', 'UTF9', false);
\set VERBOSITY sqlstate
SET CATALOG 'other';
SET client_encoding TO 'UTF9';
SET NAMES '';
