"""The way from text to Document: parse, schema, build, semantics, tests."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

from netctl.config.acl import check_tests
from netctl.config.build import build
from netctl.config.loader import Path, Source, Tree, parse
from netctl.config.report import Report
from netctl.config.schema import check_schema
from netctl.config.semantic import check_semantics
from netctl.model.document import Document
from netctl.model.errors import ConfigError, Finding, Mark

PUBLIC_KEY_FIELDS = frozenset({"wireguard", "previousKeys"})
SECRET_WORDS = ("private", "secret", "preshared", "password")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid document, what a person should know about it, and where everything stands."""

    document: Document
    warnings: tuple[Finding, ...]
    source: Source

    def mark(self, path: Path) -> Mark:
        """Where a path stands in the text."""
        return self.source.mark(path)


def load_document(text: str, file: str = "networks.yaml") -> Loaded:
    """Text to a valid Document. Raises ConfigError with every finding."""
    source = parse(text, file)
    report = Report(source)
    for path in _secrets(source.tree, ()):
        message = "this looks like a private key; no secret belongs into this file"
        report.error(
            "NC303", path, message, "keys stay on their host: `netctl keys` prints the public halves"
        )
    secret_places = {(finding.mark, finding.path) for finding in report.findings}
    report.findings.extend(f for f in check_schema(source) if (f.mark, f.path) not in secret_places)
    if not report.errors:
        document = build(source, report)
        if not report.errors:
            check_semantics(document, report)
        if not report.errors:
            check_tests(document, report)
    if report.errors:
        raise ConfigError(tuple(report.findings))
    return Loaded(document, report.warnings, source)


def _looks_like_key(value: str) -> bool:
    if len(value) != 44 or not value.endswith("="):
        return False
    try:
        return len(base64.b64decode(value, validate=True)) == 32
    except binascii.Error:
        return False


def _secrets(tree: Tree, path: Path) -> Iterator[Path]:
    """Places that hold, or are named for, a secret. A key's shape is fine only where public keys belong."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if any(word in key.lower() for word in SECRET_WORDS) and isinstance(value, str):
                yield (*path, key)
            else:
                yield from _secrets(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _secrets(value, (*path, index))
    elif isinstance(tree, str) and _looks_like_key(tree) and PUBLIC_KEY_FIELDS.isdisjoint(path):
        yield path
