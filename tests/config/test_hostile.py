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


@pytest.mark.parametrize("levels", [65, 999, 1_000, 1_001, 20_000])
@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[{a: ", "{'a': [", '["x", ', "? "])
def test_our_own_limit_of_depth_speaks_whatever_the_parser_refuses(opening: str, levels: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_document(opening * levels)
    assert caught.value.findings[0].code in {
        "NC006",
        "NC007",
    }  # a list or map as a key is refused even sooner


def test_what_is_cut_off_at_a_depth_that_is_allowed_is_not_called_too_deep() -> None:
    with pytest.raises(ConfigError) as caught:
        load_document("[" * 40)
    assert [finding.code for finding in caught.value.findings] == ["NC001"]
