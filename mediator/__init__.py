"""The mediator: a server that introduces members to each other and cannot read their traffic."""
