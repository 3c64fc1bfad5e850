"""`netctl export`: print the document with the members that joined by invite, or a stock app's configuration."""

from __future__ import annotations

import argparse
from pathlib import Path

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.operator import admin
from netctl.cli.options import add_mediator_state, add_output
from netctl.model.errors import LocalError
from netctl.wire.operatorrequests import Export


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="default: the document that the mediator has"
    )
    parser.add_argument("--document", action="store_true", help="the document (the default)")
    parser.add_argument("--write", action="store_true", help="change the file in place (default: print it)")
    app = parser.add_argument_group("for a member without an agent")
    app.add_argument("--wg", metavar="MEMBER", help="print the configuration of its stock WireGuard app")
    app.add_argument("--private-key", metavar="FILE", type=Path, help="put this key into the configuration")
    app.add_argument(
        "--new-key", metavar="FILE", type=Path, help="make a key, and print what the document needs"
    )
    app.add_argument("--qr", action="store_true", help="draw a QR code, which the app can scan")
    app.add_argument(
        "--out", metavar="FILE", type=Path, help="write the configuration there, for its owner alone"
    )
    add_mediator_state(parser)
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Write the members that joined by invite into the document; all other text and comments stay."""
    if arguments.wg is not None:
        from netctl.cli.stock import export_wg

        return export_wg(arguments)
    if arguments.qr or arguments.out or arguments.private_key or arguments.new_key:
        raise LocalError("--private-key, --new-key, --qr and --out go with --wg MEMBER")
    from netctl.agent.storage.locations import read_document
    from netctl.config import load_document
    from netctl.config.edit.textedit import add_guests
    from netctl.config.resolve.guests import Guest
    from netctl.model.keys import IdentityKey, WireGuardKey
    from netctl.system.files import write_atomic

    answer = admin(arguments, Export()).reply
    path = Path(arguments.file or answer.document)
    text = read_document(path)
    before = load_document(text, str(path)).document
    known = {member.wireguard for member in before.members.values()}
    guests = [
        Guest(
            row.name,
            WireGuardKey.parse(row.wireguard),
            tuple(row.networks),
            IdentityKey.parse(row.identity),
        )
        for row in answer.guests
    ]
    new = [guest for guest in guests if guest.key not in known]
    taken = [guest.name for guest in new if guest.name in before.members]
    if taken:
        raise LocalError(f"{path} has other members of these names: {', '.join(taken)}")
    written = add_guests(text, new, str(path))
    after = load_document(written, str(path)).document
    for guest in new:
        wider = [n.name for n in after.networks_of(guest.name) if n.name not in guest.networks]
        if wider:
            output.warning(f"{guest.name} comes into {', '.join(wider)} too, by the `members` there")
    names = ", ".join(guest.name for guest in new) or "nobody"
    if arguments.write and new:
        try:
            write_atomic(path.resolve(), written, path.stat().st_mode & 0o777)
        except OSError as error:
            raise LocalError(f"cannot write {path}: {error.strerror}") from error
    elif not arguments.write:
        output.text(written)
    output.note(f"{'written into' if arguments.write else 'to be written into'} {path}: {names}")
    return 0
