"""Every command of `netctl-mediator`, in the groups that `--help` shows."""

from __future__ import annotations

from netctl.system.commandline import Command


def _commands(**texts: str) -> dict[str, Command]:
    return {name: Command(text, f"mediator.shell.commands.{name}") for name, text in texts.items()}


GROUPS = {
    "set up": _commands(
        setup="identity, first document, services and an invite, in one command",
        init="make this server's identity and print what networks.yaml needs",
    ),
    "run": _commands(
        serve="run the server and its relay",
        relay="run the relay alone (serve starts one by itself)",
    ),
    "see": _commands(
        status="what the server that runs here is doing; 1 when it refuses something",
        check="look whether the store, the identity and the document are sound",
        audit="who invited, approved and revoked whom, and which document came into force",
        bans="addresses that may not connect now, and for how long",
        unban="forget what is held against an address or a member",
    ),
    "keep": _commands(
        backup="copy the state into one file; the server may run meanwhile",
        restore="put a backup in the place of the state",
        store="move the store from SQLite to PostgreSQL, or back",
    ),
}
