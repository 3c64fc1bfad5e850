"""Pure core: events in, effects out (floor F2)."""
