"""The store's tables, by version, for SQLite and PostgreSQL.

Written once, as SQLite has it; where PostgreSQL has other words for the same, they are put in their place. A step that
was released is never changed: a store of an older netctl is brought up to date by the steps that it has not had.
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
"""`state`: serving, arriving (a move to here has begun) or moved (a move from here is done). `move`: which one.
`other`: where it came from or went to. `written`: not used any more."""

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
"""Of the store: which one it is, wherever it lies."""

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
"""`writer`: the last transaction of each mediator process, by which the outcome of a commit in PostgreSQL is told whose
answer was lost. `document`: what several mediators have in force, the newest `storesql.MAX_DOCUMENTS`; `number`: of the
state that it came with. `generation.reserved` is the number of the present state where several mediators work with the
store."""

MIGRATIONS = (LEASES, INVITES, GENERATION, PAIRS, RESTING, PLACE, AUDIT, NAME, SEVERAL)
"""One step a version."""

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
"""What a move takes along, table by table, each after those that it refers to. `place` and `writer` stay: they are
about one store and its connections."""

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
"""An address does not fit into PostgreSQL's INTEGER; texts are ordered as Python and SQLite order them."""


def for_postgres(step: str) -> str:
    """A step of `MIGRATIONS` in PostgreSQL's words."""
    tables, trigger, _ = step.partition("CREATE TRIGGER")
    for sqlite, postgres in _WORDS.items():
        tables = tables.replace(sqlite, postgres)
    return tables + (_POSTGRES_TRIGGERS if trigger else "")
