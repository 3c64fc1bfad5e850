"""A folder of documents that must be refused, each with the exact lines that a person reads.

A new case is a new `hostile/NAME.yaml` with `NAME.txt` beside it.
"""

from pathlib import Path

import pytest

from netctl.config import load_document
from netctl.model.errors import ConfigError

FOLDER = Path(__file__).parent / "hostile"
CASES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_refused_with_the_words_that_help(case: str) -> None:
    text = (FOLDER / f"{case}.yaml").read_bytes().decode()
    with pytest.raises(ConfigError) as caught:
        load_document(text)
    assert str(caught.value) + "\n" == (FOLDER / f"{case}.txt").read_text(encoding="utf-8")


def test_each_line_is_one_line() -> None:
    for case in CASES:
        for line in (FOLDER / f"{case}.txt").read_text(encoding="utf-8").splitlines():
            assert line.startswith("networks.yaml:"), case
            assert line.isprintable(), case
            assert len(line) < 400, case
