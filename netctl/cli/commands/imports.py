"""`netctl import`: convert wg-quick files to a document."""

from __future__ import annotations

import argparse
from pathlib import Path

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.model.errors import ConfigError, Finding, LocalError
from netctl.system.files import write_atomic

MAX_FILES = 4096
"""A directory with more *.conf files is not a directory of wg-quick files."""
COMMON_NAMES = ("wg", "wireguard", "wgquick")
"""Names of wg-quick files, without digits, that name a link and not a host: the directory then names the host."""


def _found(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("*.conf"))
    if not files:
        raise LocalError(f"there is no *.conf in {path}")
    if len(files) > MAX_FILES:
        raise LocalError(
            f"{path} has {len(files)} *.conf files, more than {MAX_FILES}: name another directory"
        )
    return files


def _host_and_link(file: Path, root: Path, alone: bool) -> tuple[str, str]:
    """Host and link of a file: ``nas/wg0.conf``, ``nas/etc/wireguard/wg0.conf`` and ``nas.conf`` belong to host nas."""
    inside = file.relative_to(root).parts if file != root else (file.name,)
    if len(inside) > 1:
        return inside[0], file.stem
    if alone and file.stem.rstrip("0123456789") in COMMON_NAMES:
        return (
            file.resolve().parent.name if file.resolve().parent.name != "wireguard" else "this-host",
            file.stem,
        )
    return file.stem, "wg0"


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a file, or a directory such as HOST/wg0.conf"
    )
    parser.add_argument("--to", metavar="FILE", help="write it there (default: print it)")
    parser.add_argument("--force", action="store_true", help="replace FILE if there is one")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Convert wg-quick files to one document."""
    from netctl.agent.storage.locations import read_document
    from netctl.fleet.merge import merge
    from netctl.fleet.wgquick import QuickFile, read_wgquick

    files: list[QuickFile] = []
    findings: list[Finding] = []
    roots = [Path(text) for text in arguments.paths]
    for root in roots:
        for path in _found(root):
            host, link = _host_and_link(path, root, len(roots) == 1 and not root.is_dir())
            try:
                files.append(read_wgquick(read_document(path), str(path), host, link))
            except ConfigError as error:
                findings += error.findings
    if not findings:
        try:
            imported = merge(files)
        except ConfigError as error:
            findings += error.findings
    for finding in findings:
        hint = f" ({finding.hint})" if finding.hint else ""
        output.error(f"{finding.mark}: {finding.path}: {finding.message}{hint}")
    if findings:
        return 1
    for file in files:
        for omission in file.omitted:
            output.warning(f"{omission.mark}: {omission.what} is not carried: {omission.why}")
    for difference in imported.differences:
        output.warning(f"differs from the file: {difference}")
    if arguments.to is None:
        output.line(imported.text.rstrip("\n"))
    else:
        target = Path(arguments.to)
        if target.exists() and not arguments.force:
            raise LocalError(f"{target} exists already; --force replaces it")
        write_atomic(target, imported.text, 0o644)
    members, networks = (
        output.counted(imported.members, "member"),
        output.counted(imported.networks, "network"),
    )
    count = f"{members}, {networks} from {output.counted(len(files), 'file')}"
    same = "it plans to what the files say" if not imported.differences else "see above for what differs"
    output.note(f"{count}; {same}")
    output.note(
        "no key is in it: on each host put the PrivateKey line's value into /var/lib/netctl/wireguard.key,"
    )
    output.note("mode 0600, before `netctl keys init`, which keeps it and makes the rest")
    return 0
