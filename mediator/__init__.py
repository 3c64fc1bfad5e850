"""The server that introduces members to each other and can read none of their traffic."""
