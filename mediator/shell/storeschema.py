"""The store's tables, by version, for SQLite and PostgreSQL.

The text is SQLite's; `for_postgres` replaces words that differ in PostgreSQL. A released step is never changed: a store
of an older netctl is updated by the steps that it lacks.
"""

from __future__ import annotations

LEASES = """
CREATE TABLE lease (
  network TEXT NOT NULL,
  address INTEGER NOT NULL,
  member BLOB NOT NULL,
  PRIMARY KEY (network, address),
  UNIQUE (network, member)
) STRICT, WITHOUT ROWID;
CREATE TABLE relay_port (
  member BLOB PRIMARY KEY,
  port INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
"""
INVITES = """
CREATE TABLE invite (
  id TEXT PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE,
  network TEXT NOT NULL,
  uses INTEGER NOT NULL,
  used INTEGER NOT NULL DEFAULT 0 CHECK (used <= uses),
  made_s INTEGER NOT NULL,
  expires_s INTEGER NOT NULL,
  revoked INTEGER NOT NULL DEFAULT 0,
  name TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE TABLE guest (
  member BLOB PRIMARY KEY,
  identity BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
CREATE TABLE admission (
  network TEXT NOT NULL,
  member BLOB NOT NULL REFERENCES guest (member) ON UPDATE CASCADE ON DELETE CASCADE,
  invite TEXT NOT NULL,
  pending INTEGER NOT NULL,
  joined_s INTEGER NOT NULL,
  PRIMARY KEY (network, member)
) STRICT, WITHOUT ROWID;
CREATE TABLE revoked (
  member BLOB PRIMARY KEY,
  name TEXT NOT NULL,
  at_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
GENERATION = """
CREATE TABLE generation (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  reserved INTEGER NOT NULL
) STRICT;
"""
PAIRS = """
CREATE TABLE relay_pair (
  low BLOB NOT NULL,
  high BLOB NOT NULL,
  port INTEGER NOT NULL UNIQUE,
  apps INTEGER NOT NULL,
  PRIMARY KEY (low, high)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER pair_port_is_free BEFORE INSERT ON relay_pair
WHEN EXISTS (SELECT 1 FROM relay_port WHERE port = NEW.port)
BEGIN SELECT RAISE(ABORT, 'the port is a member''s'); END;
CREATE TRIGGER member_port_is_free BEFORE INSERT ON relay_port
WHEN EXISTS (SELECT 1 FROM relay_pair WHERE port = NEW.port)
BEGIN SELECT RAISE(ABORT, 'the port is a pair''s'); END;
"""
RESTING = """
CREATE TABLE resting_port (
  port INTEGER PRIMARY KEY,
  until_s INTEGER NOT NULL
) STRICT;
"""
PLACE = """
CREATE TABLE place (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  state TEXT NOT NULL,
  move TEXT NOT NULL,
  other TEXT NOT NULL,
  written TEXT NOT NULL
) STRICT;
INSERT INTO place (one, state, move, other, written) VALUES (1, 'serving', '', '', '');
"""
"""`state`: serving, arriving (a move to this store has begun) or moved (a move from this store is done). `move`: the
move's id. `other`: source or target of the move. `written`: no longer used.
"""

AUDIT = """
CREATE TABLE audit (
  number INTEGER PRIMARY KEY,
  at_s INTEGER NOT NULL,
  who TEXT NOT NULL,
  what TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
"""
"""`mediator.core.audit.Entry`."""

NAME = """
ALTER TABLE place ADD COLUMN name TEXT NOT NULL DEFAULT '';
UPDATE place SET name = lower(hex(randomblob(16)));
"""
"""The store's name, which stays the same wherever the store is."""

SEVERAL = """
CREATE TABLE writer (
  name TEXT PRIMARY KEY,
  mark TEXT NOT NULL,
  at_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE document (
  number INTEGER PRIMARY KEY,
  digest TEXT NOT NULL,
  content TEXT NOT NULL
) STRICT;
"""
"""`writer`: the last transaction of each mediator process, which shows whether a commit in PostgreSQL without an answer
was kept. `document`: the documents in force of several mediators, the newest `storesql.MAX_DOCUMENTS`; `number`: the
number of the state in which each took effect. `generation.reserved` is the number of the present state if several
mediators use the store.
"""

MIGRATIONS = (LEASES, INVITES, GENERATION, PAIRS, RESTING, PLACE, AUDIT, NAME, SEVERAL)
"""One step per version."""

TABLES = {
    "lease": ("network", "address", "member"),
    "relay_port": ("member", "port"),
    "invite": (
        "id",
        "hash",
        "network",
        "uses",
        "used",
        "made_s",
        "expires_s",
        "revoked",
        "name",
    ),
    "guest": ("member", "identity", "name"),
    "admission": ("network", "member", "invite", "pending", "joined_s"),
    "revoked": ("member", "name", "at_s"),
    "generation": ("one", "reserved"),
    "relay_pair": ("low", "high", "port", "apps"),
    "resting_port": ("port", "until_s"),
    "audit": ("number", "at_s", "who", "what", "subject", "detail"),
    "document": ("number", "digest", "content"),
}
"""The tables that a move copies, each after the tables that it refers to. `place` and `writer` are not copied, as they
describe one store and its connections.
"""

_POSTGRES_TRIGGERS = """
CREATE FUNCTION pair_port_is_free() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF EXISTS (SELECT 1 FROM relay_port WHERE port = NEW.port) THEN RAISE 'the port is a member''s'; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER pair_port_is_free BEFORE INSERT ON relay_pair FOR EACH ROW EXECUTE FUNCTION pair_port_is_free();
CREATE FUNCTION member_port_is_free() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF EXISTS (SELECT 1 FROM relay_pair WHERE port = NEW.port) THEN RAISE 'the port is a pair''s'; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER member_port_is_free BEFORE INSERT ON relay_port FOR EACH ROW EXECUTE FUNCTION member_port_is_free();
"""
_WORDS = {
    " STRICT, WITHOUT ROWID;": ";",
    " STRICT;": ";",
    " BLOB": " BYTEA",
    " INTEGER": " BIGINT",
    " TEXT": ' TEXT COLLATE "C"',
    "lower(hex(randomblob(16)))": "replace(gen_random_uuid()::text, '-', '')",
}
"""SQLite's words and PostgreSQL's: an address does not fit into its INTEGER, and texts must sort as in SQLite."""


def for_postgres(step: str) -> str:
    """A step of `MIGRATIONS` as SQL for PostgreSQL."""
    tables, trigger, _ = step.partition("CREATE TRIGGER")
    for sqlite, postgres in _WORDS.items():
        tables = tables.replace(sqlite, postgres)
    return tables + (_POSTGRES_TRIGGERS if trigger else "")
