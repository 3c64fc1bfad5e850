"""`netctl rollout`: apply a document on a fleet of hosts, over SSH."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.findings import show_findings
from netctl.cli.live import Live
from netctl.cli.options import add_file, add_output, seconds
from netctl.config import Loaded, load_document
from netctl.config.load.schema import fits_definition
from netctl.config.reach.reachtext import reach_lines, reach_to_json
from netctl.fleet.ansible import TaskResult, Variables, passed_over, play, private_directory
from netctl.fleet.canary import Size, batches
from netctl.fleet.inventory import (
    MEMBER_VARIABLE,
    HostVariables,
    Inventory,
    connections,
    from_document,
    from_file,
    listed,
)
from netctl.fleet.publickeys import PublicKeys, enrol, read_keys
from netctl.fleet.rollout import OVER, HostRun, PlanRow, Rollout, State, Wishes
from netctl.model.errors import ConfigError, LocalError
from netctl.system.files import write_atomic

SHOWN_HOSTS = 5
"""Names of hosts in a line; of the others only the number is shown."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_file(parser)
    parser.add_argument(
        "-i", "--inventory", metavar="FILE", help="your own Ansible inventory (default: members.*.host)"
    )
    parser.add_argument(
        "--canary", default="1", metavar="WHO", help="how many, or which, go first (default: 1)"
    )
    parser.add_argument(
        "--batch", default="10", metavar="SIZE", help="then so many at once: 10, 25%% (default: 10)"
    )
    parser.add_argument("--limit", metavar="HOSTS", help="only these hosts")
    parser.add_argument(
        "--confirm-within",
        metavar="TIME",
        help="a host that is not reached anew so soon goes back by itself (default: the document's apply.confirm)",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; say what would change")
    parser.add_argument("--diff", action="store_true", help="show the lines that change")
    parser.add_argument(
        "--resume", action="store_true", help="pass over hosts that live by the document already"
    )
    parser.add_argument(
        "--enrol",
        action="store_true",
        help="make keys on the hosts, and write the public halves into the document",
    )
    parser.add_argument("--become", action="store_true", help="become root on the hosts")
    parser.add_argument(
        "-e",
        "--extra-vars",
        action="append",
        default=[],
        metavar="NAME=VALUE|@FILE",
        help="for Ansible and the role; a file keeps secrets out of the list of processes",
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Ask all hosts for their present document, print the changes, then apply on a canary and in batches."""
    path: Path = arguments.file or locations.config
    if why := passed_over():
        output.warning(why)
    variables = Variables(
        dict(_variable(text) for text in arguments.extra_vars if not text.startswith("@")),
        tuple(_variable_file(text[1:]) for text in arguments.extra_vars if text.startswith("@")),
    )
    if arguments.enrol:
        return _enrol(path, arguments, variables)
    text, loaded = _load(path)
    document = loaded.document
    inventory = (
        from_file(Path(arguments.inventory), document) if arguments.inventory else from_document(document)
    )
    inventory = _limited(inventory, arguments.limit)
    wishes = Wishes(
        confirm_s=seconds(arguments.confirm_within) if arguments.confirm_within else int(document.confirm_s),
        check=arguments.check,
        diff=arguments.diff,
        resume=arguments.resume,
        become=arguments.become,
        variables=variables,
    )
    size = Size.parse(arguments.batch)
    quiet = arguments.output == "json"
    with Live(quiet) as live:
        rollout = Rollout(text, document, inventory, wishes, live.tell)
        live.heading(f"looking at {output.counted(len(rollout.runs), 'host')}")
        rollout.look()
        live.close()
        rows = rollout.plan()
        if not quiet:
            _show_plan(rows, inventory)
        order = [rollout.begun] if wishes.check else batches(rollout.begun, arguments.canary, size)
        order = [batch for batch in order if batch]
        if order and not (wishes.check or arguments.yes):
            _ask(len(rollout.begun))
        live.begin(order)
        rolled = rollout.roll(order)
        live.close()
    ok = rolled and all(run.state in OVER for run in rollout.runs.values())
    if quiet:
        output.json(to_builtins(_report(ok, document.digest, rows, order, rollout)))
    else:
        _show_end(ok, rollout)
    return 0 if ok else 1


def _load(path: Path) -> tuple[str, Loaded]:
    text = read_document(path)
    try:
        return text, load_document(text, str(path))
    except ConfigError as error:
        show_findings(error.findings, text)
        raise LocalError(f"{path} is not valid; nothing was rolled out") from None


def _variable(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise LocalError(f"'{text}' is no variable: -e NAME=VALUE, or -e @FILE for what others may not see")
    return name, value


def _variable_file(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_file():
        raise LocalError(f"there is no file of variables {text}")
    return path


def _limited(inventory: Inventory, limit: str | None) -> Inventory:
    if limit is None:
        return inventory
    names = [name.strip() for name in limit.split(",") if name.strip()]
    unknown = [name for name in names if name not in inventory.hosts]
    if unknown:
        raise LocalError(f"no such host: {', '.join(unknown)}; there are: {', '.join(inventory.hosts)}")
    return replace(
        inventory, hosts={host: inventory.hosts[host] for host in inventory.hosts if host in names}
    )


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN_HOSTS
    return ", ".join(names[:SHOWN_HOSTS]) + (f" and {more} more" if more > 0 else "")


def _show_plan(rows: list[PlanRow], inventory: Inventory) -> None:
    if inventory.left_out:
        output.note(f"left out, for they have no host or are no member: {_some(inventory.left_out)}")
    for row in rows:
        if row.changes is None:
            output.line(f"{_some(row.hosts)}: have other documents, which were not compared")
            continue
        since = f"since document {row.before}" if row.before else "for the first time"
        output.line(f"{_some(row.hosts)}: {since}")
        for line in reach_lines(row.changes) or ["nothing changes for anybody"]:
            output.change(line)


def _ask(count: int) -> None:
    if not sys.stdin.isatty():
        raise LocalError("nobody is there to ask: --yes rolls out without asking")
    output.note(f"Roll out to {output.counted(count, 'host')}? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise LocalError("nothing was rolled out")


def _show_end(ok: bool, rollout: Rollout) -> None:
    runs = rollout.runs.values()
    output.table(
        "",
        ("host", "batch", "state", "changed", "why"),
        [
            (
                run.host,
                str(run.batch or "-"),
                run.state,
                str(run.changed),
                "" if run.state in OVER else run.why,
            )
            for run in runs
        ],
    )
    for run in runs:
        if run.diffs:
            output.line(f"{run.host}:")
            for line in run.diffs:
                output.line(f"  {line}")
    counts = ", ".join(
        f"{sum(run.state is state for run in runs)} {state}"
        for state in State
        if any(run.state is state for run in runs)
    )
    hint = "" if ok else "; `netctl rollout --resume` goes on where this ended"
    output.verdict(ok, counts + hint)


class HostReport(Struct, frozen=True):
    """The result on one host."""

    member: str
    state: State
    batch: int | None
    changed: int
    why: str
    diff: list[str]


class RolloutReport(Struct, frozen=True):
    """What `netctl rollout -o json` prints."""

    ok: bool
    document: str
    left_out: list[str]
    plan: list[object]
    batches: list[list[str]]
    hosts: dict[str, HostReport]


def _report(
    ok: bool, digest: str, rows: list[PlanRow], order: list[list[str]], rollout: Rollout
) -> RolloutReport:
    def of(run: HostRun) -> HostReport:
        why = "" if run.state in OVER else run.why
        return HostReport(run.member, run.state, run.batch or None, run.changed, why, run.diffs)

    plan = [
        {
            "hosts": list(row.hosts),
            "before": row.before,
            "compared": row.changes is not None,
            **(reach_to_json(row.changes) if row.changes is not None else {}),
        }
        for row in rows
    ]
    hosts = {run.host: of(run) for run in rollout.runs.values()}
    return RolloutReport(ok, digest, list(rollout.inventory.left_out), [*plan], order, hosts)


def _enrol(path: Path, arguments: argparse.Namespace, variables: Variables) -> int:
    """Make keys on the hosts and write their public halves into the document. Returns the exit status."""
    text = read_document(path)
    places_of: dict[str, str] = {}
    if arguments.inventory:
        source: Any = str(Path(arguments.inventory).resolve())
        members = {host: str(more.get(MEMBER_VARIABLE, host)) for host, more in listed(Path(source)).items()}
        for host, more in listed(Path(source)).items():
            user = f"{more['ansible_user']}@" if "ansible_user" in more else ""
            place = f"{user}{more.get('ansible_host', host)}"
            if fits_definition("host", place):  # not for a template: no `host` then
                places_of[members[host]] = place
    else:
        members, source = _hosts_in(text, path)
    if arguments.limit:
        wanted = set(arguments.limit.split(","))
        members = {host: member for host, member in members.items() if host in wanted}
    if not members:
        raise LocalError(
            "there is no host to enrol: give members a `host`, or name your own inventory with -i"
        )
    keys: dict[str, PublicKeys] = {}
    failed: dict[str, str] = {}

    def on_result(result: TaskResult) -> None:
        if result.state in ("failed", "unreachable"):
            failed[result.host] = result.why
        elif result.state == "ok" and result.task.endswith("Read the public halves"):
            try:
                keys[members[result.host]] = read_keys(str(result.result.get("stdout")))
            except (ValueError, KeyError, TypeError):
                failed[result.host] = "it did not print its public keys"

    task = {
        "name": "Make the keys",
        "ansible.builtin.include_role": {"name": "netctl_member", "tasks_from": "keys.yml"},
    }
    plays = [{"hosts": "all", "gather_facts": False, "tasks": [task]}]
    with private_directory() as private:
        words = play(
            private, plays, source, list(members), on_result, variables=variables, become=arguments.become
        )
    if words:
        raise LocalError(f"Ansible did not begin: {words}")
    done = enrol(text, str(path), keys, places_of)
    if done.text != text:
        write_atomic(path.resolve(), done.text, path.stat().st_mode & 0o777)
    for name in done.differing:
        output.warning(
            f"{name} has another key than the document says: left as it is; was the host made anew?"
        )
    for host, why in failed.items():
        output.error(f"{host}: {why}")
    output.line(f"{path}: keys of {_some(done.added) if done.added else 'nobody'} written")
    return 1 if failed or done.differing else 0


def _hosts_in(text: str, path: Path) -> tuple[dict[str, str], dict[str, HostVariables]]:
    """Members that have a `host` and their connection variables, from a document that may still lack keys."""
    from netctl.config.load.loader import parse

    tree: Any = parse(text, str(path)).tree
    entries = tree.get("members") if isinstance(tree, dict) else None
    found = connections(
        (str(name), str(entry["host"]))
        for name, entry in (entries.items() if isinstance(entries, dict) else ())
        if isinstance(entry, dict) and entry.get("host") and entry.get("state") != "absent"
    )
    return {name: name for name in found}, found
