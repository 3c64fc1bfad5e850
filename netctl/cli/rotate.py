"""`netctl keys rotate`: give a host new keys; it keeps its name and addresses."""

from __future__ import annotations

import argparse

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.applying import ApplyWish, apply_document
from netctl.model.errors import ConfigError, LocalError, RemoteError


def rotate(arguments: argparse.Namespace, locations: Locations) -> int:
    """Make new keys. The mediator moves the membership if this host joined by invite.

    Otherwise prints the line for the document; the next apply takes the new keys. Returns the exit status.
    """
    from netctl.agent.storage.keyfiles import load_keys, next_keys
    from netctl.agent.storage.statestore import StateStore
    from netctl.engine.privilege import check_privileges

    check_privileges()
    old, store = load_keys(locations), StateStore(locations)
    tried = next_keys(locations) is not None
    new = next_keys(locations, make=True)
    assert new is not None
    if store.joined() is None:
        name = arguments.name or "NAME"
        output.note(
            "made new keys beside the present ones. Give this member this line in the document, let the mediator "
            "have it, then `netctl apply` here: it takes the new keys, and the addresses stay"
        )
        previous = f'previousKeys: ["{old.wireguard}"]'
        output.line(f'  {name}: {{wireguard: "{new.wireguard}", identity: "{new.identity}", {previous}}}')
        return 0
    return _by_mediator(arguments, locations, tried=tried)


def _by_mediator(arguments: argparse.Namespace, locations: Locations, *, tried: bool) -> int:
    import asyncio

    from netctl.agent.mediators import enrolclient
    from netctl.agent.storage.keyfiles import forget_next_keys, load_keys, next_keys, swap_keys
    from netctl.agent.storage.statestore import StateStore
    from netctl.cli.starting import restart_agent

    old, new, loaded = load_keys(locations), next_keys(locations), StateStore(locations).document()
    assert new is not None
    if loaded is None:
        raise LocalError("this host has joined no network")
    try:
        asyncio.run(enrolclient.rotate(old, new, loaded.document.mediators))
    except RemoteError as error:
        if not (tried and error.code == "login.unknown-key"):
            raise
        output.note("the mediator knows the old key no longer: an earlier try has moved the membership")
    swap_keys(locations)
    restart_agent(locations, arguments.engine)
    forget_next_keys(locations)
    output.line(f"this host has new keys: {new.wireguard}")
    return 0


def pending(locations: Locations) -> bool:
    """Whether this host has new keys that it does not use yet."""
    try:
        return locations.next_of(locations.private_key).exists()
    except OSError:
        return False


def applying(wish: ApplyWish, locations: Locations) -> int:
    """Apply. If the document names the new keys, take them first; if the apply fails, take the old keys again."""
    from netctl.agent.storage.keyfiles import forget_next_keys, load_keys, next_keys, swap_keys
    from netctl.cli.starting import restart_agent
    from netctl.config import load_document

    new = next_keys(locations)
    try:
        document = load_document(read_document(wish.file or locations.config)).document
    except ConfigError:
        return apply_document(wish, locations)  # prints the findings
    member = document.member_by_key(new.wireguard) if new is not None else None
    if member is None or load_keys(locations).wireguard == member.wireguard:
        return apply_document(wish, locations)
    output.progress("this document has the new keys of this host: taking them")
    swap_keys(locations)
    restart_agent(locations, wish.engine)
    done = False
    try:
        code = apply_document(wish, locations)
        done = code == 0
        return code
    finally:
        if done:
            forget_next_keys(locations)
        else:
            swap_keys(locations)
            restart_agent(locations, wish.engine)
            output.note("this host has its old keys again")
