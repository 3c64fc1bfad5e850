"""`netctl validate`, `plan` and `apply`."""

from __future__ import annotations

import argparse
from typing import Any

from netctl.agent.daemon import only_writer, read_document
from netctl.agent.places import Places
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.config.show import excerpt, to_github, to_json
from netctl.model.errors import ConfigError, Finding, LocalError

CONVERGED, FAILED, CHANGES, ROLLED_BACK, ROLL_BACK_FAILED = 0, 1, 2, 3, 4


def show_findings(findings: tuple[Finding, ...], text: str) -> None:
    """Each finding with the line it is about and a caret under its column."""
    for finding in findings:
        (output.warning if finding.severity == "warning" else output.error)(_sentence(finding))
        for shown in excerpt(finding, text):
            output.note(shown)


def _sentence(finding: Finding) -> str:
    where = f"{finding.mark}: " if finding.mark else ""
    hint = f" ({finding.hint})" if finding.hint else ""
    return f"{where}{finding.code} {finding.path}: {finding.message}{hint}"


def validate(arguments: argparse.Namespace, places: Places) -> int:
    """Say everything that is wrong with a document."""
    from netctl.config import load_document

    path = arguments.file or places.config
    text = read_document(path)
    document = None
    try:
        loaded = load_document(text, str(path))
        document, findings = loaded.document, loaded.warnings
    except ConfigError as error:
        findings = error.findings
    if arguments.output == "json":
        output.json({"valid": document is not None, "findings": [to_json(finding) for finding in findings]})
    elif arguments.output == "github":
        for finding in findings:
            output.line(to_github(finding))
    else:
        show_findings(findings, text)
        if document is not None:
            counts = f"{len(document.members)} members, {len(document.networks)} networks"
            output.line(f"{path} is valid: {counts}")
        else:
            errors = sum(finding.severity == "error" for finding in findings)
            output.note(f"{path} is not valid: {errors} error{'s' if errors != 1 else ''}")
    return CONVERGED if document is not None else FAILED


def _alone(places: Places, text: str, path: str, engine: str, *, dry: bool) -> dict[str, Any]:
    """Plan or apply without an agent: only for a document without mediators."""
    import asyncio

    from netctl.agent.host import look_up
    from netctl.agent.keys import load_keys
    from netctl.agent.memory import Memory
    from netctl.config import load_document, resolve
    from netctl.engine import apply_plan, open_engine
    from netctl.engine.privilege import check_privileges
    from netctl.plan import describe, diff, plan_to_json

    loaded = load_document(text, path)
    document = loaded.document
    check_privileges()
    keys = load_keys(places)
    if document.mediators:
        raise NoAgentError(
            "no agent runs on this host, and this document has mediators: `netctl up` starts it"
        )
    member = document.member_by_key(keys.wireguard)
    if member is None:
        raise LocalError(
            f"no member of the document has this host's key {keys.wireguard}: "
            "add the line that `netctl keys` prints under `members:`"
        )
    resolved = asyncio.run(look_up(document))
    memory = Memory(places)
    live = frozenset(other.wireguard for other in document.members.values() if other.wireguard is not None)
    resolution = resolve(memory.down().of(document), member.name, None, live=live, resolved=resolved)
    for condition in resolution.conditions:
        output.warning(f"{condition.peer}: {condition.message}")
    with only_writer(places):
        host = open_engine(places.private_key, kind=engine, state_dir=places.state, hosts_file=places.hosts)
        try:
            if dry:
                plan = diff(resolution.state, host.read())
                warnings = [str(finding) for finding in loaded.warnings]
                return {"lines": describe(plan), "warnings": warnings, **plan_to_json(plan)}
            outcome = apply_plan(host, resolution.state, progress=output.progress)
        finally:
            host.close()
        if outcome.error is None:
            memory.accept(text)
    return {
        "changed": outcome.changed,
        "rolled_back": outcome.rolled_back,
        "error": outcome.error,
        "warnings": [str(finding) for finding in loaded.warnings],
        "waiting": None,
    }


def _do(arguments: argparse.Namespace, places: Places, op: str) -> dict[str, Any]:
    path = arguments.file or places.config
    text = read_document(path)
    request = {"op": op, "text": text, "file": str(path)}
    try:
        try:
            result: dict[str, Any] = ask(places, request, output.progress if op == "apply" else None)
        except NoAgentError:
            result = _alone(places, text, str(path), arguments.engine, dry=op == "plan")
    except ConfigError as error:
        show_findings(error.findings, text)
        raise LocalError(f"{path} is not valid; nothing was changed") from None
    for warning in result["warnings"]:
        output.warning(warning.replace(" warning", "", 1))
    return result


def plan(arguments: argparse.Namespace, places: Places) -> int:
    """Say what an apply would change on this host."""
    result = _do(arguments, places, "plan")
    if arguments.output == "json":
        output.json({"changes": result["changes"], "summary": result["summary"]})
    else:
        for text in result["lines"]:
            output.change(text)
        output.line(f"Plan: {result['summary']}.")
    return CHANGES if result["lines"] and arguments.detailed_exitcode else CONVERGED


def apply(arguments: argparse.Namespace, places: Places) -> int:
    """Make the document true on this host."""
    result = _do(arguments, places, "apply")
    if arguments.output == "json":
        output.json(result)
    if result["error"] is not None:
        state = "everything is as it was" if result["rolled_back"] else "the host is between two states"
        output.error(f"{result['error']}; {state}")
        if not result["rolled_back"]:
            return ROLL_BACK_FAILED
        return ROLLED_BACK if result["changed"] else FAILED
    if result["waiting"]:
        output.warning(f"{result['waiting']}; this host goes on with what the mediator said last")
    if arguments.output != "json":
        count = result["changed"]
        output.line(
            "nothing to change" if not count else f"applied: {count} change{'s' if count != 1 else ''}"
        )
    return CONVERGED
