"""A mediator that lies: the real server with the real identity, so that every member lets it speak.

`python hostilemediator.py rollback|stranger DOCUMENT STATE`. What a document alone can say (another member, key,
address or ACL) needs no program: the tests give the real mediator such a document.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core.hub import Hub
from mediator.shell.credentials import relay_secret
from mediator.shell.server import Server
from netctl.model.keys import IdentityKey


def lie(hub: Hub, how: str) -> None:
    """Make the core say what an honest one never does."""
    if how == "rollback":  # a view from before all that the members have seen
        hub._generation = 5
    else:  # views signed by somebody else
        other = Ed25519PrivateKey.from_private_bytes(b"\x0b" * 32)
        hub._view_cache._identity = IdentityKey(other.public_key().public_bytes_raw())
        hub._view_cache._sign = other.sign
    hub._hang()


async def main(how: str, document: str, state: str) -> None:
    """Serve until killed."""
    place = Path(state)
    server = Server(document=Path(document), state=place, listen="::", secret=relay_secret(place))
    mediator = await server.load()
    lie(server._hub, how)  # after the store is read, which makes the generation an honest one
    await server.start(mediator)
    await server.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
