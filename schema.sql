-- The application's tables, the same on every side. Safe to apply more than once:
--
--     psql -h 127.0.0.1 -U webuser -d cluster_session_a -f schema.sql
--     psql -h 127.0.0.1 -p 54322 -U webuser -d cluster_session_b -f schema.sql
--
-- The pool's own objects live in the schema `kambana` and are installed by `kambana init`.

SET client_min_messages = warning;

-- table for sessions
CREATE TABLE IF NOT EXISTS php_session (
    id TEXT PRIMARY KEY,
    data BYTEA,
    date_change TIMESTAMP WITHOUT TIME ZONE DEFAULT CURRENT_TIMESTAMP
);

COMMENT ON TABLE php_session IS 'Web sessions, shared by every instance';
COMMENT ON COLUMN php_session.id IS 'Session identifier, the value of the cookie PHPSESSID';
COMMENT ON COLUMN php_session.data IS 'Content in PHP''s "php" serialize format; bytes, not text';
COMMENT ON COLUMN php_session.date_change IS 'When the session was last written, in UTC';

-- demonstration table (items CRUD)
CREATE TABLE IF NOT EXISTS items (
    id SERIAL PRIMARY KEY,
    name TEXT NOT NULL,
    content TEXT,
    updated_at TIMESTAMP WITHOUT TIME ZONE DEFAULT CURRENT_TIMESTAMP
);

COMMENT ON TABLE items IS 'Items edited through the pages and the API';
COMMENT ON COLUMN items.name IS 'Name in any script, never empty in the application';
COMMENT ON COLUMN items.content IS 'Free text; NULL is not the same as empty';
COMMENT ON COLUMN items.updated_at IS 'When the item was last changed, in UTC';

-- table to register servers / health
CREATE TABLE IF NOT EXISTS servers (
    id SERIAL PRIMARY KEY,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    active BOOLEAN DEFAULT true,
    created_at TIMESTAMP WITHOUT TIME ZONE DEFAULT CURRENT_TIMESTAMP
);

COMMENT ON TABLE servers IS 'Servers edited through the pages and the API';
COMMENT ON COLUMN servers.host IS 'Host name or address';
COMMENT ON COLUMN servers.port IS 'TCP port, 1 to 65535 in the application';
COMMENT ON COLUMN servers.active IS 'Whether the server is in use';
COMMENT ON COLUMN servers.created_at IS 'When the server was registered, in UTC';
