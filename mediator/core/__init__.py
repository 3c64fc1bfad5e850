"""The mediator's decisions as pure code: events in, effects out (floor F2)."""
