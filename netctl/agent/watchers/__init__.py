"""What looks whether something has changed: the document, the engine, routes, rulesets, the host's own firewall."""
