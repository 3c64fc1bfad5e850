"""Every code that anything says of a document is in docs/findings.md, once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_is_documented_and_every_documented_one_is_said() -> None:
    said = {
        code
        for path in (ROOT / "netctl").rglob("*.py")
        for code in re.findall(r'"(NC\d{3})"', path.read_text(encoding="utf-8"))
    }
    listed = re.findall(r"^\| (NC\d{3}) \|", (ROOT / "docs" / "findings.md").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert said == set(listed)
