"""Formats a document: two spaces a level, nothing else moved, every comment kept.

Works on lines, guided by libyaml's tokens: the content of a line is never rewritten, so nothing can be lost. The
result is parsed again and must mean the same; otherwise (an odd block scalar) the text stays as it is.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import yaml

from netctl.config.load.loader import parse
from netctl.model.errors import ConfigError

STEP = 2
"""Columns of indentation a level."""


def format_text(text: str, file: str = "networks.yaml") -> str:
    """The same document, formatted. Idempotent. Raises ConfigError when the text cannot be read as YAML."""
    before = parse(text, file).tree
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    laid_out = _Layout(plain).lines()
    result = "\n".join(laid_out) + "\n" if laid_out else ""
    try:
        return result if parse(result, file).tree == before else text
    except ConfigError:
        return text  # formatting broke the document: keep the original


@dataclass(slots=True)
class _Block:
    """One open block map or list."""

    is_map: bool
    indent: int
    in_entry: bool = False
    """Whether the scan is inside an item of a list that is the value of a map's key and not indented."""


@dataclass(slots=True)
class _Start:
    """A line that begins with a key or an item."""

    was: int
    indent: int
    dashes: int = 0


class _Layout:
    def __init__(self, text: str) -> None:
        self.source = text.split("\n")
        self.starts: dict[int, _Start] = {}
        self.inside: set[int] = set()  # lines that are the further lines of a scalar
        self.blocks: list[_Block] = []
        self._scan(text)
        self.order = sorted(self.starts)

    def _scan(self, text: str) -> None:
        flow = 0
        for token in yaml.scan(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            start: Any = token.start_mark
            if isinstance(token, (yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)):
                flow += 1
            elif isinstance(token, (yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)):
                flow -= 1
            elif isinstance(token, yaml.ScalarToken):
                end: Any = token.end_mark
                last = end.line if end.column else end.line - 1
                self.inside.update(range(start.line + 1, last + 1))
            elif flow:
                continue
            elif isinstance(token, (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken)):
                self._open(isinstance(token, yaml.BlockMappingStartToken))
            elif isinstance(token, yaml.BlockEndToken):
                self.blocks.pop()
            elif isinstance(token, (yaml.KeyToken, yaml.BlockEntryToken)):
                self._begin(start.line, start.column, isinstance(token, yaml.KeyToken))

    def _open(self, is_map: bool) -> None:
        indent = 0
        if self.blocks:
            parent = self.blocks[-1]
            indent = parent.indent + STEP * (2 if parent.in_entry else 1)
        self.blocks.append(_Block(is_map, indent))

    def _begin(self, line: int, column: int, is_key: bool) -> None:
        block = self.blocks[-1]
        if block.is_map:
            block.in_entry = not is_key
        if line in self.starts:
            start = self.starts[line]
            start.dashes += not is_key
        elif not self.source[line][:column].strip():
            indent = block.indent + (STEP if block.in_entry else 0)
            self.starts[line] = _Start(column, indent, int(not is_key))

    def lines(self) -> list[str]:
        """The formatted lines."""
        done: list[str] = []
        current: _Start | None = None
        for number, line in enumerate(self.source):
            start = self.starts.get(number)
            words = line.strip(" \t")
            if start is not None:
                current = start
                done.append(self._first(line.rstrip(" \t"), start))
            elif number in self.inside:
                done.append(_moved(line, current))
            elif not words:
                if done and done[-1]:
                    done.append("")
            elif words.startswith("#"):
                done.append(" " * self._comment_indent(number, line, current) + words)
            else:
                done.append(_moved(line.rstrip(" \t"), current))
        while done and not done[-1]:
            done.pop()
        return done

    def _first(self, line: str, start: _Start) -> str:
        rest = line[start.was :]
        for _ in range(start.dashes):
            rest = rest.removeprefix("-").lstrip(" ")
        return (" " * start.indent + "- " * start.dashes + rest).rstrip(" ")

    def _comment_indent(self, number: int, line: str, current: _Start | None) -> int:
        """The indentation of the line above if the comment had the same column, else that of the next key or item."""
        column = len(line) - len(line.lstrip(" \t"))
        if current is not None and column == current.was:
            return current.indent
        following = bisect_right(self.order, number)
        return self.starts[self.order[following]].indent if following < len(self.order) else 0


def _moved(line: str, current: _Start | None) -> str:
    """A further line of a key or item, moved by as many columns as the first line."""
    if current is None or not line.strip():
        return line
    column = len(line) - len(line.lstrip(" "))
    return " " * max(0, column + current.indent - current.was) + line.lstrip(" ")
