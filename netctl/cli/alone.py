"""Plan and apply on a host where no agent runs: only for a document without mediators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netctl.agent.places import Places
from netctl.agent.writer import LOCK_WAIT_S, only_writer
from netctl.cli import output
from netctl.cli.ask import NoAgentError
from netctl.model.errors import LocalError

if TYPE_CHECKING:
    from netctl.config import Loaded
    from netctl.engine import Engine
    from netctl.model.document import Document
    from netctl.model.hoststate import HostState


def name_of(places: Places, document: Document) -> str:
    """Which member of a document this host is. Raises LocalError, before anything is touched."""
    from netctl.agent.keys import load_keys

    if document.mediators:
        raise NoAgentError(
            "no agent runs on this host, and this document has mediators: `netctl up` starts it"
        )
    keys = load_keys(places)
    member = document.member_by_key(keys.wireguard)
    if member is None:
        raise LocalError(
            f"no member of the document has this host's key {keys.wireguard}: "
            "add the line that `netctl keys` prints under `members:`"
        )
    return member.name


def desired_of(places: Places, loaded: Loaded, name: str, host: Engine) -> HostState:
    """What this host should have by a document; what it cannot have is said."""
    import asyncio

    from netctl.agent.host import look_up
    from netctl.agent.memory import Memory
    from netctl.config import clear_of, resolve
    from netctl.config.called import called_elsewhere
    from netctl.model.hoststate import insisting

    document, memory = loaded.document, Memory(places)
    resolved = asyncio.run(look_up(document))
    live = frozenset(other.wireguard for other in document.members.values() if other.wireguard is not None)
    up = memory.down().of(document)
    fitting, refused = clear_of(up, name, host.foreign())
    resolution = resolve(fitting, name, None, live=live, resolved=resolved)
    for condition in (*refused, *resolution.conditions):
        output.warning(f"{condition.peer}: {condition.message}")
    accepted = loaded if memory.holds(loaded.source.text) else memory.document()
    before = accepted.document if accepted is not None else None
    return insisting(resolution.state, called_elsewhere(before, document))


def alone(places: Places, request: dict[str, Any], engine: str, *, dry: bool) -> dict[str, Any]:
    """Do what the agent would be asked for; the same answer. Raises NetctlError."""
    from netctl.agent import alone as commit
    from netctl.agent.armed import Armory, terms_of
    from netctl.agent.memory import Memory
    from netctl.agent.planned import binding, expected, make_plan, refuse_stale
    from netctl.engine import apply_plan, open_engine
    from netctl.engine.privilege import check_privileges

    memory = Memory(places)
    loaded = memory.load(request["text"], request["file"])
    check_privileges()
    member = name_of(places, loaded.document)
    down = memory.down()
    armory, terms, armed = Armory(places), terms_of({**request, "unattended": False}), None
    with only_writer(places, wait_s=LOCK_WAIT_S, progress=output.progress):
        if not dry:
            armory.must_be_free()
            armory.admit(loaded.document.digest, force=terms.force)
        host = open_engine(places.private_key, kind=engine, state_dir=places.state, hosts_file=places.hosts)
        try:
            desired = desired_of(places, loaded, member, host)
            if dry:
                before = memory.document()
                return make_plan(
                    member,
                    loaded,
                    down.of(before.document) if before is not None else None,
                    down.of(loaded.document),
                    desired,
                    host.read(),
                    ssh_connection=request.get("ssh_connection", ""),
                    everyone=bool(request.get("everyone")),
                ).to_json()
            holds = expected(request.get("binding"))
            if holds is not None:
                refuse_stale(holds, binding(loaded, desired, host.read()))
            if terms.may_arm:
                armed = commit.arm(armory, terms, loaded, request["text"], desired, host)
            outcome = apply_plan(host, desired, progress=output.progress)
        finally:
            host.close()
        if outcome.error is None:
            memory.accept(request["text"])
            if armed is not None:
                armory.finish(armed)
        elif armed is not None and outcome.rolled_back:
            armory.disarm()
    return {
        "changed": outcome.changed,
        "rolled_back": outcome.rolled_back,
        "error": outcome.error,
        "warnings": [str(finding) for finding in loaded.warnings],
        "waiting": None,
        "armed": armed.plain() if armed is not None else None,
    }
