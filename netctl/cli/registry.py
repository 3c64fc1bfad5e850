"""Every command of `netctl`, in the groups that `netctl --help` shows."""

from __future__ import annotations

from netctl.system.commandline import Command


def _command(module: str, text: str | None) -> Command:
    return Command(text, f"netctl.cli.commands.{module}")


GROUPS = {
    "write a document": {
        "init": _command("init", "write a first networks.yaml with this host in it"),
        "validate": _command("validate", "say everything that is wrong with a document"),
        "fmt": _command("fmt", "lay a document out; every word and comment stays"),
        "explain": _command("explain", "say what a key of the document means"),
        "schema": _command("schema", "print the JSON Schema of the document, for editors and checks"),
        "test": _command("test", "run the tests that a document has of its own"),
        "import": _command("imports", "make a document out of wg-quick files of several hosts"),
    },
    "run this host": {
        "keys": _command("keys", "make this host's keys, or show their public halves"),
        "plan": _command("plan", "say what an apply would change on this host"),
        "apply": _command("apply", "make the document true on this host"),
        "confirm": _command("confirm", "keep what an armed apply made; exit 1 when nothing is armed"),
        "rollback": _command("rollback", "take back what an armed apply made, now"),
        "up": _command("up", "start the agent, and bring networks up"),
        "down": _command("down", "take all networks of this host down, or one"),
        "watch": _command("watch", "apply the document now and at every save (an agent does so by itself)"),
        "prune": _command("prune", "remove what is netctl's on this host and in no document"),
        "agent": _command("agent", "run the agent in the foreground (for systemd)"),
        "_confirmd": _command("confirmd", None),
    },
    "see": {
        "status": _command("status", "show this host, its networks and its peers"),
        "top": _command("top", "show the peers of this host live, in the terminal"),
        "ui": _command("ui", "open a page of this host, its networks and its peers in a browser"),
        "why": _command("why", "say which path a pair has, and what allows or denies a port"),
        "doctor": _command("doctor", "say what this host's NAT is, and what is wrong here"),
        "leases": _command("leases", "the addresses that this host holds its mediator to"),
        "version": _command("version", "say what a bug report needs: versions, engine, Python, kernel"),
        "support": _command("support", "write one file of facts for a bug report, without secrets"),
        "completion": _command(
            "completion", "print what bash, zsh or fish needs to complete this command line"
        ),
    },
    "invite": {
        "invite": _command("invite", "let hosts in with one string (on the mediator's machine)"),
        "members": _command("members", "who belongs, and who waits (on the mediator's machine)"),
        "export": _command(
            "export",
            "write who joined by invite into the document, or a stock WireGuard app's configuration "
            "(on the mediator's machine)",
        ),
        "join": _command("join", "join a network with an invite"),
        "leave": _command("leave", "leave the networks that this host joined by invite"),
    },
    "fleet": {
        "sync": _command("sync", "follow a document in Git: judge, apply, go back if it cuts us off"),
        "rollout": _command("rollout", "bring the document to a fleet over SSH, canary first"),
    },
    "try out": {
        "lab": _command("lab", "a small internet on this machine to play with"),
        "drill": _command("drill", "show on the live network, without harm, what a loss would do"),
    },
}
"""The commands by group of the help, under the group's heading."""
