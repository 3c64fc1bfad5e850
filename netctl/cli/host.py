"""`netctl status`, `up`, `down`, `keys` and `agent`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from typing import Any

from netctl.agent.places import Places
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.model.errors import LocalError
from netctl.system.files import open_log
from netctl.system.ourselves import own_command

SHOWN_DRIFT = 20
"""A screen; a host that lost its link departs in thousands of ways."""
START_TIMEOUT_S = 10.0
"""Importing on a slow board takes three."""


def agent(arguments: argparse.Namespace, places: Places) -> int:
    """Run the agent in the foreground."""
    from netctl.agent.daemon import run_agent

    if not 0 < arguments.drift_every < float("inf"):
        raise LocalError("--drift-every is a number of seconds above 0")
    watch = not arguments.no_watch
    run_agent(places, arguments.engine, arguments.drift_every, watch=watch, metrics=arguments.metrics)
    return 0


def keys(arguments: argparse.Namespace, places: Places) -> int:
    """Make this host's keys, show their public halves, or take new ones."""
    from netctl.agent.keys import load_keys, make_keys

    if arguments.action == "rotate":
        from netctl.cli.rotate import rotate

        return rotate(arguments, places)
    if arguments.action == "init":
        pair, made = make_keys(places)
        output.note(
            f"{'made' if made else 'kept'} the keys in {places.state}; add this line under `members:`"
        )
    else:
        pair = load_keys(places)
    name = arguments.name or os.uname().nodename.split(".")[0].lower()
    if arguments.output == "json":
        output.json({"name": name, "wireguard": str(pair.wireguard), "identity": str(pair.identity)})
    else:
        output.line(f'  {name}: {{wireguard: "{pair.wireguard}", identity: "{pair.identity}"}}')
    return 0


def status(arguments: argparse.Namespace, places: Places) -> int:
    """Show this host, its networks and its peers."""
    state: dict[str, Any] = ask(places, {"op": "status"})
    if arguments.output == "json":
        output.json(state)
        return 0
    if state["document"]["digest"] is None:
        _armed(state)
        output.line(f"No document yet: edit {places.config}, then `netctl apply`; or `netctl join`.")
        return 0
    mediator = state["mediator"]
    said = {"none": "none in the document", "connected": f"connected for {output.age(mediator['since_s'])}"}
    if state["joined"] is not None:
        output.line(f"joined {state['joined']} by invite: networks and members are as the mediator says")
    text = said.get(mediator["state"], f"{mediator['state']} for {output.age(mediator['since_s'])}")
    engine = state["engine"] or "not running"
    if state.get("data_path"):  # an agent of before has none
        engine += f", data path {state['data_path']}"
    output.line(f"{state['member'] or 'not a member'}  (engine {engine})")
    output.line(f"mediator: {text}" + (f": {mediator['error']}" if mediator["error"] else ""))
    output.line()
    rows = [
        (
            name,
            network["mode"],
            "down"
            if network["down"]
            else "refused"
            if network["refused"]
            else ", ".join(network["addresses"]) or "no address yet",
        )
        for name, network in state["networks"].items()
    ]
    output.table("networks", ("name", "mode", "addresses"), rows)
    output.table(
        "peers",
        ("name", "online", "path", "for", "rtt", "handshake", "received", "sent", "endpoint"),
        [
            (
                peer["name"],
                "yes" if peer["online"] else "no",
                peer["path"],
                output.age(peer["since_s"]) if peer["path"] != "none" else "-",
                f"{peer['rtt_ms']:.1f} ms" if peer["rtt_ms"] is not None else "-",
                f"{output.age(peer['last_handshake_s'])} ago"
                if peer["last_handshake_s"] is not None
                else "never",
                output.size(peer["rx_bytes"]),
                output.size(peer["tx_bytes"]),
                peer["via"] or peer["endpoint"] or "-",
            )
            for peer in state["peers"]
        ],
    )
    _armed(state)
    for condition in state["conditions"]:
        output.warning(condition)
    for drift in state["drift"][:SHOWN_DRIFT]:
        paths = ", ".join(drift["paths"])
        output.warning(f"the host departs from the document at {paths}: {drift['line']}")
    if (more := len(state["drift"]) - SHOWN_DRIFT) > 0:
        output.warning(f"the host departs from the document in {more} more ways: `netctl status -o json`")
    return 0


def _armed(state: dict[str, Any]) -> None:
    if state["armed"] is not None:
        seconds = state["armed"]["rolls_back_in_s"]
        output.warning(f"armed: rolls back in {seconds:.0f} s unless you run `netctl confirm`")


def _has_systemd_unit() -> bool:
    if shutil.which("systemctl") is None or not os.path.isdir("/run/systemd/system"):
        return False
    command = ["systemctl", "cat", "netctl.service"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def start_agent(places: Places, engine: str, *, at_boot: bool = False) -> None:
    """By systemd where it knows the agent; else as a process of its own. Returns once it answers.

    `at_boot`: systemd is to start it after the next boot too.
    """
    from netctl.agent.keys import load_keys
    from netctl.engine.privilege import check_privileges

    check_privileges()
    load_keys(places)  # a missing key is said here, not in a log
    process = None
    log = places.state / "agent.log"
    if _has_systemd_unit():
        command = ["systemctl", "enable", "--now"] if at_boot else ["systemctl", "start"]
        subprocess.run([*command, "netctl.service"], check=False)
    else:
        command = own_command(*places.options(), "agent", "--engine", engine)
        with os.fdopen(open_log(log), "w") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            ask(places, {"op": "status"})
        except NoAgentError:
            if process is not None and process.poll() is not None:
                lines = log.read_text().strip().splitlines() or ["no reason given"]
                raise LocalError(lines[-1].removeprefix("error: ")) from None
            time.sleep(0.05)
        else:
            return
    where = "journalctl -u netctl" if process is None else str(log)
    raise LocalError(f"the agent did not start within {START_TIMEOUT_S:.0f} s; see {where}")


def restart_agent(places: Places, engine: str, *, at_boot: bool = False) -> None:
    """End the agent that runs, if one does, and start it: it reads its keys at the start. Tunnels stay."""
    try:
        ask(places, {"op": "stop"})
    except NoAgentError:
        pass
    else:
        deadline = time.monotonic() + START_TIMEOUT_S
        while places.socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    start_agent(places, engine, at_boot=at_boot)


def _switch(places: Places, op: str, network: str | None) -> int:
    result = ask(places, {"op": op, "network": network}, output.progress)
    if result["error"] is not None:
        output.error(result["error"])
        return 1
    count = result["changed"]
    what = network or "this host"
    output.line(f"{what} is {op}" + (f": {count} change{'s' if count != 1 else ''}" if count else ""))
    return 0


def up(arguments: argparse.Namespace, places: Places) -> int:
    """Start the agent if none runs, apply the document if there is none yet, and bring networks up."""
    try:
        state = ask(places, {"op": "status"})
    except NoAgentError:
        start_agent(places, arguments.engine)
        state = ask(places, {"op": "status"})
    if state["document"]["digest"] is None:
        from netctl.cli.document import apply

        arguments.file = None
        arguments.output = "text"
        arguments.confirm_within, arguments.no_confirm, arguments.force = None, True, False
        return apply(arguments, places)
    return _switch(places, "up", arguments.network)


def down(arguments: argparse.Namespace, places: Places) -> int:
    """Take all networks of this host down, or one."""
    try:
        return _switch(places, "down", arguments.network)
    except NoAgentError:
        if arguments.network is not None:
            raise
    from netctl.agent.armed import Armory
    from netctl.agent.writer import LOCK_WAIT_S, only_writer
    from netctl.engine import apply_plan, open_engine
    from netctl.engine.privilege import check_privileges
    from netctl.model.hoststate import HostState

    check_privileges()
    with only_writer(places, wait_s=LOCK_WAIT_S, progress=output.progress):
        Armory(places).must_be_free()
        host = open_engine(places.private_key, state_dir=places.state, hosts_file=places.hosts)
        try:
            outcome = apply_plan(host, HostState(), progress=output.progress)
        finally:
            host.close()
    if outcome.error is not None:
        output.error(outcome.error)
        return 1
    output.line(f"this host is down: {outcome.changed} changes")
    return 0
