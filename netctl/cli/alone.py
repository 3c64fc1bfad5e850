"""Plan and apply on a host where no agent runs: only for a document without mediators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netctl.agent.places import Places
from netctl.agent.writer import LOCK_WAIT_S, only_writer
from netctl.cli import output
from netctl.cli.ask import NoAgentError

if TYPE_CHECKING:
    from netctl.config import Loaded
    from netctl.engine import Engine
    from netctl.model.document import Document
    from netctl.model.keys import WireGuardKey
    from netctl.node.evaluate import Evaluation


def key_of(places: Places, document: Document) -> WireGuardKey:
    """This host's key, which a document names. Raises LocalError, before anything is touched."""
    from netctl.agent.keys import load_keys
    from netctl.node.evaluate import member_name

    if document.mediators:
        raise NoAgentError(
            "no agent runs on this host, and this document has mediators: `netctl up` starts it"
        )
    key = load_keys(places).wireguard
    member_name(document, key)
    return key


def evaluation_of(places: Places, loaded: Loaded, key: WireGuardKey, host: Engine) -> Evaluation:
    """What a document comes to on this host; what it cannot have is said."""
    import asyncio

    from netctl.agent.host import look_up
    from netctl.agent.store import StateStore
    from netctl.node.evaluate import evaluate

    document, store = loaded.document, StateStore(places)
    accepted = loaded if store.holds(loaded.source.text) else store.document()
    evaluation = evaluate(
        document,
        None,
        {},
        host.foreign(),
        frozenset(other.wireguard for other in document.members.values() if other.wireguard is not None),
        asyncio.run(look_up(document)),
        key=key,
        down=store.down(),
        told=accepted.document if accepted is not None else None,
    )
    for condition in evaluation.conditions:
        output.warning(f"{condition.peer}: {condition.message}")
    return evaluation


def alone(places: Places, request: dict[str, Any], engine: str, *, dry: bool) -> dict[str, Any]:
    """Do what the agent would be asked for; the same answer. Raises NetctlError."""
    from netctl.agent import alone as commit
    from netctl.agent.armed import Armory, terms_of
    from netctl.agent.store import StateStore
    from netctl.engine import apply_plan, open_engine
    from netctl.engine.privilege import check_privileges
    from netctl.node.planreport import binding, expected, make_plan, refuse_stale

    store = StateStore(places)
    loaded = store.load(request["text"], request["file"])
    check_privileges()
    key = key_of(places, loaded.document)
    down = store.down()
    armory, terms, armed = Armory(places), terms_of({**request, "unattended": False}), None
    with only_writer(places, wait_s=LOCK_WAIT_S, progress=output.progress):
        if not dry:
            armory.must_be_free()
            armory.admit(loaded.document.digest, force=terms.force)
        host = open_engine(places.private_key, kind=engine, state_dir=places.state, hosts_file=places.hosts)
        try:
            evaluation = evaluation_of(places, loaded, key, host)
            desired = evaluation.desired
            if dry:
                before = store.document()
                return make_plan(
                    evaluation.member,
                    loaded,
                    down.of(before.document) if before is not None else None,
                    down.of(loaded.document),
                    desired,
                    host.read(),
                    ssh_connection=request.get("ssh_connection", ""),
                    everyone=bool(request.get("everyone")),
                ).to_json()
            holds, seen = expected(request.get("binding")), None
            if holds is not None:
                seen = host.read()
                refuse_stale(holds, binding(loaded, desired, seen))
            if terms.may_arm:
                armed = commit.arm(armory, terms, loaded, request["text"], desired, host)
            outcome = apply_plan(host, desired, progress=output.progress, seen=seen)
        finally:
            host.close()
        if outcome.error is None:
            store.accept(request["text"])
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
