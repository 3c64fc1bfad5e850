"""Measure the validation of a document: `python bench/validate.py [MEMBERS]`. Goal: 20,000 members in under 3 s.

Each stage is compared with libyaml's bare event scan of the same text in the same run.
"""

from __future__ import annotations

import base64
import hashlib
import statistics
import sys
import time
from collections.abc import Callable

import yaml

from netctl.config import load_document, resolve
from netctl.config.load.loader import parse
from netctl.config.load.report import Report
from netctl.config.load.schema import check_schema

RUNS = 3


def key(seed: str) -> str:
    """A well-formed public key."""
    return base64.b64encode(hashlib.blake2s(seed.encode()).digest()).decode()


def text(members: int) -> str:
    """A document with one routed network of all members, fifty groups, fifty rules and fifty tests."""
    lines = ["apiVersion: netctl/v1", "id: a1b2-c3d4", "mediators:", "  - url: netctl://m.example.net:8443"]
    lines += [f'    identity: ["ed25519:{key("m")}"]', "    relayPorts: 20000-60000", "members:"]
    for i in range(members):
        keys = f'wireguard: "{key(f"w{i}")}", identity: "ed25519:{key(f"i{i}")}"'
        lines.append(f"  host-{i}: {{{keys}, groups: [g{i % 50}, all-{i % 7}]}}")
    lines += ["networks:", "  fleet:", "    mode: routed", "    ipv4: 10.64.0.0/14", '    members: ["*"]']
    lines.append("    acls:")
    for i in range(50):
        lines.append(f"      - {{src: ['group:g{i}'], dst: ['group:all-{i % 7}'], proto: tcp, ports: [22]}}")
    lines.append("    tests:")
    for i in range(50):
        lines.append(f"      - {{src: host-{i}, accept: ['host-{i % 7}:tcp/22'], deny: ['host-1:tcp/23']}}")
    return "\n".join(lines) + "\n"


def median(work: Callable[[], object]) -> float:
    """Median processor seconds of a few runs."""
    found = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)


def main() -> None:
    """Print a line per stage: seconds, and the ratio to the bare scan."""
    members = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    document = text(members)
    scan = median(lambda: sum(1 for _ in yaml.parse(document, Loader=yaml.CSafeLoader)))
    source = parse(document, "bench")
    broken = document.replace("host-7: {", "host-7: {colour: blue, ", 1)
    stages: dict[str, Callable[[], object]] = {
        "parse with marks": lambda: parse(document, "bench"),
        "schema": lambda: check_schema(source.tree, Report(source)),
        "schema, one member wrong": lambda: check_schema(parse(broken, "b").tree, Report(source)),
        "load_document": lambda: load_document(document),
        "resolve": lambda: resolve(loaded, "host-3", None),
    }
    loaded = load_document(document).document
    print(f"{members} members, {len(document) / 1e6:.1f} MB, medians of {RUNS} runs")
    print(f"{'libyaml event scan':<28}{scan:7.3f} s   1.0 x")
    for name, work in stages.items():
        seconds = median(work)
        print(f"{name:<28}{seconds:7.3f} s {seconds / scan:5.1f} x")


if __name__ == "__main__":
    main()
