"""The formatter moves lines and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.config.edit.fmt import format_text
from netctl.config.load.loader import parse
from netctl.model.errors import ConfigError
from tests.support.documents import EXAMPLES, trees

BEFORE = """\


# who we are
apiVersion: netctl/v1   \r
members:
      laptop:   {groups: [a,
         b]}
      # the big one
      nas:
         routes:
         - 10.0.0.0/8
         -   10.1.0.0/16   # two
         # the last one
networks:
    office:
        acls:
        -   name: ssh
            src: ["*"]


        # next rule
        -   name: "a
              b"
    # end of the networks
# end of the file

"""
AFTER = """\
# who we are
apiVersion: netctl/v1
members:
  laptop:   {groups: [a,
     b]}
  # the big one
  nas:
    routes:
      - 10.0.0.0/8
      - 10.1.0.0/16   # two
      # the last one
networks:
  office:
    acls:
      - name: ssh
        src: ["*"]

      # next rule
      - name: "a
            b"
# end of the networks
# end of the file
"""


def test_two_spaces_a_level_and_every_comment_kept() -> None:
    assert format_text(BEFORE) == AFTER
    assert format_text(AFTER) == AFTER


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_laid_out(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_text(text) == text


def test_block_text_keeps_its_own_lines() -> None:
    text = "a:\n    b: |\n      one\n\n\n        two  \n    c: 1\n"
    laid_out = format_text(text)
    assert laid_out == "a:\n  b: |\n    one\n\n\n      two  \n  c: 1\n"
    assert parse(laid_out, "x").tree == parse(text, "x").tree


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError):
        format_text("members: {")


@settings(max_examples=30, deadline=None)
@given(trees(), st.integers(1, 8), st.booleans(), st.integers(0, 40))
def test_the_same_document_after_and_nothing_to_do_twice(
    tree: dict[str, Any], indent: int, indentless: bool, comments: int
) -> None:
    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, indentless and wanted)

    wanted = indentless
    lines = yaml.dump(tree, Dumper=Dumper, indent=indent).splitlines()
    for number in range(0, len(lines), 7):
        lines.insert(number, " " * (comments % 13) + f"# comment {number}")
    text = "\n".join(lines) + "\n"
    once = format_text(text)
    assert parse(once, "x").tree == tree
    assert format_text(once) == once
    assert sorted(line.strip(" -") for line in once.splitlines()) == sorted(
        line.strip(" -") for line in text.splitlines()
    )
