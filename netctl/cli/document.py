"""`netctl validate`, `plan` and `apply`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from netctl.agent.places import Places, read_document
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.model.errors import ConfigError, Finding, LocalError

CONVERGED, FAILED, CHANGES, ROLLED_BACK, ROLL_BACK_FAILED = 0, 1, 2, 3, 4


def show_findings(findings: tuple[Finding, ...], text: str) -> None:
    """Each finding with the line it is about and a caret under its column."""
    from netctl.config.show import excerpt

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
    from netctl.config.show import to_github, to_json

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


def _do(arguments: argparse.Namespace, places: Places, op: str, request: dict[str, Any]) -> dict[str, Any]:
    text, path = request["text"], request["file"]
    try:
        try:
            result: dict[str, Any] = ask(
                places, {"op": op, **request}, output.progress if op == "apply" else None
            )
        except NoAgentError:
            from netctl.cli.alone import alone

            result = alone(places, request, arguments.engine, dry=op == "plan")
    except ConfigError as error:
        show_findings(error.findings, text)
        raise LocalError(f"{path} is not valid; nothing was changed") from None
    for warning in result["warnings"]:
        output.warning(warning.replace(" warning", "", 1))
    return result


def _session(arguments: argparse.Namespace) -> str:
    from netctl.cli.sshsession import ssh_connection

    given: str | None = arguments.ssh_connection
    return ssh_connection() if given is None else given


def plan(arguments: argparse.Namespace, places: Places) -> int:
    """Say what an apply would change on this host, and for people."""
    path = arguments.file or places.config
    request = {
        "text": read_document(path),
        "file": str(path),
        "ssh_connection": _session(arguments),
        "everyone": arguments.everyone,
    }
    result = _do(arguments, places, "plan", request)
    if arguments.out is not None:
        from netctl.cli import planfile

        planfile.save(arguments.out, request["text"], path.resolve(), result)
    if arguments.output == "json":
        output.json(result)
    else:
        _show(result, arguments.out)
    return CHANGES if result["changes"] and arguments.detailed_exitcode else CONVERGED


def _show(result: dict[str, Any], out: Path | None) -> None:
    for row in result["changes"]:
        output.change(row["line"])
    people = result["people"]["lines"]
    if people:
        output.line("For people:")
        for line in people:
            output.change(line)
    output.line(f"Plan: {result['summary']}.")
    if result["session"]["drops"] is not None:
        output.warning(f"this drops the link that you are connected through: {result['session']['drops']}")
    if out is not None:
        output.note(f"kept in {out}: `netctl apply {out}` does this and nothing else")


def apply(arguments: argparse.Namespace, places: Places) -> int:
    """Make the document true on this host; or do what a plan that was kept says."""
    from netctl.cli import planfile

    path = arguments.file or places.config
    text = read_document(path)
    request: dict[str, Any] = {"text": text, "file": str(path)}
    kept = planfile.read(text, path)
    if kept is not None:
        request = {"text": kept.text, "file": kept.file, "binding": kept.binding}
    request["confirm_s"] = arguments.confirm_within
    request["ssh_connection"] = "" if arguments.no_confirm else _session(arguments)
    request["force"] = arguments.force
    request["unattended"] = getattr(arguments, "unattended", False)
    result = _do(arguments, places, "apply", request)
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
    if result["armed"] is not None:
        output.note(
            f"armed: this host goes back in {result['armed']['rolls_back_in_s']:.0f} s unless you run `netctl confirm`"
        )
    return CONVERGED
