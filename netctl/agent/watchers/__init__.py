"""Watchers for changes: of the document, the engine, routes, rulesets and the host's own firewall."""
