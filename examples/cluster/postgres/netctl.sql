-- Runs once, when the server of compose.yaml makes its files. On a server of your own: `psql -v ON_ERROR_STOP=1 -f` as a
-- superuser, with the password's file in place of the one below.
\set password `cat /run/secrets/store-password`
CREATE ROLE netctl LOGIN PASSWORD :'password' CONNECTION LIMIT 40;
CREATE DATABASE netctl OWNER netctl ENCODING 'UTF8' TEMPLATE template0;
-- The role reaches its own database, and nobody else does.
REVOKE ALL ON DATABASE netctl FROM PUBLIC;
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
