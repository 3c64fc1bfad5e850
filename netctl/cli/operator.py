"""`netctl invite` and `members`: for the operator of a mediator, on its machine."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from netctl.agent.places import Places
from netctl.cli import output
from netctl.cli.ask import ask_socket
from netctl.model.errors import LocalError

ADMIN_SOCKET = "admin.sock"


def admin(arguments: argparse.Namespace, request: dict[str, Any]) -> Any:
    """Ask the mediator of this machine. Raises LocalError."""
    path = arguments.mediator_state / ADMIN_SOCKET
    missing = (
        f"no mediator runs here with its state in {arguments.mediator_state}: name it with --mediator-state"
    )
    return ask_socket(path, request, "mediator", missing)


def invite(arguments: argparse.Namespace, places: Places) -> int:
    """Make, list or revoke invites."""
    if arguments.what == "list":
        rows = admin(arguments, {"op": "invite.list"})
        if arguments.output == "json":
            output.json(rows)
        else:
            _invites(rows)
        return 0
    if arguments.what == "revoke":
        if arguments.id is None:
            raise LocalError("say which: `netctl invite list` shows the IDs")
        admin(arguments, {"op": "invite.revoke", "id": arguments.id})
        output.note(f"invite {arguments.id} is good for nothing now; who came with it stays")
        return 0
    request = {
        "op": "invite.create",
        "network": arguments.what,
        "uses": arguments.uses,
        "expires": arguments.expires,
        "name": arguments.name,
    }
    made = admin(arguments, request)
    if arguments.output == "json":
        output.json(made)
        return 0
    hosts = "1 host" if made["uses"] == 1 else f"{made['uses']} hosts"
    approval = "; each waits for `netctl members approve`" if made["approve"] == "manual" else ""
    output.note(
        f"invite {made['id']} for {hosts} to '{made['network']}', good for {arguments.expires}{approval}. "
        "Who has this string can join: send it as you would a password. On the host: `sudo netctl join`, and paste it."
    )
    output.line(made["invite"])
    return 0


def _invites(rows: list[dict[str, Any]]) -> None:
    now = time.time()
    output.table(
        "invites",
        ("id", "network", "used", "state", "expires in", "name"),
        [
            (
                row["id"],
                row["network"] or "gone",
                f"{row['used']} of {row['uses']}",
                row["state"],
                output.age(row["expires_s"] - now) if row["expires_s"] > now else "-",
                row["name"] or "-",
            )
            for row in rows
        ],
    )


def members(arguments: argparse.Namespace, places: Places) -> int:
    """List members; approve, reject, revoke, restore, rekey one."""
    if arguments.action in ("list", "pending"):
        rows = admin(arguments, {"op": "members.list"})
        if arguments.action == "pending":
            rows = [row for row in rows if row["state"] == "pending"]
        if arguments.output == "json":
            output.json(rows)
        else:
            _members(rows)
        return 0
    if arguments.who is None:
        raise LocalError(f"say whom to {arguments.action}: a name or a key; `netctl members` shows all")
    request = {"op": f"members.{arguments.action}", "who": arguments.who}
    if arguments.action == "rekey":
        if not arguments.wireguard or not arguments.identity:
            raise LocalError("say NAME NEW-KEY NEW-IDENTITY: `netctl keys` on the host prints both")
        request.update(wireguard=arguments.wireguard, identity=arguments.identity)
    name = admin(arguments, request)
    done = {
        "approve": "is in",
        "reject": "is rejected, and its key with it",
        "revoke": "is shut out: its tunnels go away everywhere now",
        "restore": "may come back: a member of the document at once, another with a new invite",
        "rekey": "has its new key; its addresses moved along",
    }[arguments.action]
    output.note(f"{name} {done}")
    return 0


def _members(rows: list[dict[str, Any]]) -> None:
    output.table(
        "members",
        ("name", "state", "from", "networks", "key"),
        [
            (
                row["name"],
                row["state"],
                row["from"],
                ", ".join(f"{n} {a[0] if a else '(no address)'}" for n, a in row["networks"].items()) or "-",
                row["wireguard"],
            )
            for row in rows
        ],
    )
    for row in rows:
        if row["condition"]:
            output.warning(f"{row['name']}: {row['condition']}")


def export(arguments: argparse.Namespace, places: Places) -> int:
    """Write the members that joined by invite into the document: every other word and comment stays."""
    if arguments.wg is not None:
        from netctl.cli.stock import export_wg

        return export_wg(arguments)
    if arguments.qr or arguments.out or arguments.private_key or arguments.new_key:
        raise LocalError("--private-key, --new-key, --qr and --out go with --wg MEMBER")
    from netctl.agent.places import read_document
    from netctl.config import load_document
    from netctl.config.edit import add_guests
    from netctl.config.guests import Guest
    from netctl.model.keys import IdentityKey, WireGuardKey
    from netctl.system.files import write_atomic

    answer = admin(arguments, {"op": "export"})
    path = Path(arguments.file or answer["document"])
    text = read_document(path)
    before = load_document(text, str(path)).document
    known = {member.wireguard for member in before.members.values()}
    guests = [
        Guest(
            row["name"],
            WireGuardKey.parse(row["wireguard"]),
            tuple(row["networks"]),
            IdentityKey.parse(row["identity"]),
        )
        for row in answer["guests"]
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
