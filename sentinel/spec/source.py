"""A YAML file as a tree in which everything knows its place, and the one form of every message about it.

    root = Reader(read_source(Path("experiments/retail.yaml"))).read()
    root.find("spec", "seed").place               # experiments/retail.yaml:11:9

The tree is built from ruamel's node graph. Scalars follow YAML 1.2 (`1e-6` is a number, `yes` and dates are text).
What YAML would let pass silently is refused here: duplicate keys, keys that are not text, tags, aliases, `<<`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML, nodes
from ruamel.yaml.error import MarkedYAMLError, StringMark
from ruamel.yaml.reader import ReaderError

from sentinel.errors import Fault, SpecError

Scalar = str | int | float | bool | None

TAG = "tag:yaml.org,2002:"
SCALAR_TAGS = {f"{TAG}{kind}" for kind in ("null", "bool", "int", "float")}
WIDTH = 140
"""Characters of a source line that a message shows."""
TEXT_TAGS = {f"{TAG}{kind}" for kind in ("str", "timestamp", "value")}


@dataclass(frozen=True)
class Source:
    """One YAML file as read."""

    path: Path
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A position in a file; line and column count from 1."""

    source: Source
    line: int
    column: int

    def __str__(self) -> str:
        """`file:line:column`, as editors and terminals understand it."""
        return f"{self.source.path}:{self.line}:{self.column}"

    def picture(self) -> str:
        """The source line with a caret below the column."""
        text = self.source.lines[self.line - 1] if self.line <= len(self.source.lines) else ""
        start = max(0, self.column - 100) if len(text) > WIDTH else 0
        indent = re.sub(r"[^\t]", " ", text[start : self.column - 1])
        return f"{self.line:>6} | {text[start : start + WIDTH]}\n       | {indent}^"


class Problem(NamedTuple):
    """One fault of a file."""

    place: Place
    path: str
    text: str

    def fault(self) -> Fault:
        """The problem for those who know no YAML tree: where, which value, what is wrong, and the line itself."""
        where = self.place
        return Fault(self.text, str(where.source.path), where.line, where.column, self.path, where.picture())


@dataclass(frozen=True)
class Node:
    """A value of the tree, with where it stands and where its key stands."""

    value: Scalar | dict[str, Node] | list[Node]
    place: Place
    key: Place | None = None

    @property
    def head(self) -> Place:
        """Where a reader finds this value: at its key, or at the value where there is none."""
        return self.key or self.place

    @property
    def children(self) -> dict[str, Node]:
        """The entries of a map; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def get(self, part: str | int) -> Node | None:
        """The child of a map or a list, if it is there."""
        if isinstance(part, str):
            return self.children.get(part)
        if isinstance(self.value, list) and part < len(self.value):
            return self.value[part]
        return None

    def find(self, *path: str) -> Node | None:
        """The node below this one at a path of keys, if it is there."""
        node: Node | None = self
        for part in path:
            node = node.get(part) if node else None
        return node

    def plain(self) -> Any:
        """The value as plain data."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """The dotted path and node of every value that is not a non-empty map; a list is one value."""
        if not self.children:
            yield prefix, self
        for key, child in self.children.items():
            yield from child.leaves(f"{prefix}.{key}" if prefix else key)


def failure(problems: Iterable[Problem], sources: Iterable[Source] = ()) -> SpecError:
    """The error that reports all problems, in the order of the files and of the lines in them."""
    order = {source.path: index for index, source in enumerate(sources)}
    ranked = sorted(problems, key=lambda p: (order.get(p.place.source.path, 0), p.place.line, p.place.column))
    return SpecError(problem.fault() for problem in ranked)


@contextmanager
def also(problems: Iterable[Problem]) -> Iterator[None]:
    """Tell an error of the block together with these problems, which were found before."""
    try:
        yield
    except SpecError as error:
        raise SpecError([*failure(problems).faults, *error.faults]) from None


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant, across camelCase and hyphens."""
    known = {re.sub(r"[-_]", "", name).lower(): name for name in candidates}
    close = difflib.get_close_matches(re.sub(r"[-_]", "", word).lower(), known, n=1)
    return known[close[0]] if close else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean '…'?` for the nearest candidate, or nothing."""
    close = nearest(word, candidates)
    return f"; did you mean '{close}'?" if close else ""


class Reader:
    """Turns one file into a tree, and gathers what YAML would let pass silently."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._seen: set[int] = set()
        self._yaml = YAML(typ="safe", pure=True)

    def read(self) -> Node:
        """The tree of the file, as far as it can be read; `problems` has what is wrong in it.

        Raises:
            SpecError: It is no YAML, or no map.
        """
        try:
            graph = self._yaml.compose("\n".join(self.source.lines) + "\n")
            root = self._node(graph, "", None) if graph else None
        except MarkedYAMLError as error:
            raise failure([self._syntax(error)]) from None
        except ReaderError as error:
            raise failure([self._bad_character(error)]) from None
        except RecursionError:
            raise failure([Problem(Place(self.source, 1, 1), "", "not valid YAML: nested too deeply")]) from None
        if root is None or not isinstance(root.value, dict):
            place = root.place if root else Place(self.source, 1, 1)
            raise failure([Problem(place, "", "found no map, expected `apiVersion: …`, `kind: …`, and so on")])
        return root

    def _place(self, mark: StringMark) -> Place:
        last = len(self.source.lines)
        if mark.line >= last > 0:  # the end of the stream, below the last line
            return Place(self.source, last, len(self.source.lines[-1]) + 1)
        return Place(self.source, mark.line + 1, mark.column + 1)

    def _syntax(self, error: MarkedYAMLError) -> Problem:
        context = f" ({error.context}, line {error.context_mark.line + 1})" if error.context_mark else ""
        mark = error.problem_mark or error.context_mark
        place = self._place(mark) if mark else Place(self.source, 1, 1)
        return Problem(place, "", f"not valid YAML: {error.problem}{context}")

    def _bad_character(self, error: ReaderError) -> Problem:
        before = "\n".join(self.source.lines)[: error.position].split("\n")
        place = Place(self.source, len(before), len(before[-1]) + 1)
        return Problem(place, "", f"not valid YAML: the character {chr(error.character)!r} is not allowed")

    def _node(self, node: nodes.Node, path: str, key: Place | None, after: StringMark | None = None) -> Node:
        """The tree of a node; `after`: the end of its key, where a value that is not written belongs."""
        place = self._place(node.start_mark)
        if after and node.value == "" and node.start_mark == node.end_mark:  # YAML says: where the next token begins
            place = Place(self.source, after.line + 1, after.column + 2)
        if id(node) in self._seen:
            self.problems.append(Problem(place, path, "found an alias of this value; write it out again"))
            return Node(None, place, key)
        self._seen.add(id(node))
        if isinstance(node, nodes.MappingNode):
            return Node(self._map(node, path), place, key)
        if isinstance(node, nodes.SequenceNode):
            return Node([self._node(item, f"{path}[{i}]", None) for i, item in enumerate(node.value)], place, key)
        assert isinstance(node, nodes.ScalarNode), "YAML has three kinds of nodes"
        return Node(self._scalar(node, path, place), place, key)

    def _scalar(self, node: nodes.ScalarNode, path: str, place: Place) -> Scalar:
        tag = str(node.tag)
        if tag in SCALAR_TAGS:
            try:
                value: Scalar = self._yaml.constructor.construct_object(node)
                return value
            except (ValueError, KeyError):  # an explicit tag on something else, or thousands of digits
                text = f"found {str(node.value)[:60]}, which cannot be read as {tag.removeprefix(TAG)}"
                self.problems.append(Problem(place, path, text))
        elif tag not in TEXT_TAGS:
            self.problems.append(Problem(place, path, f"found the tag {tag.removeprefix(TAG)}, expected plain YAML"))
        return str(node.value)

    def _map(self, node: nodes.MappingNode, path: str) -> dict[str, Node]:
        children: dict[str, Node] = {}
        for key, value in node.value:
            place = self._place(key.start_mark)
            name = str(key.value) if isinstance(key, nodes.ScalarNode) else "?"
            inner = f"{path}.{name}" if path else name
            if not isinstance(key, nodes.ScalarNode) or key.tag not in TEXT_TAGS:
                self.problems.append(Problem(place, inner, "found a key that is not text; put it in quotes"))
            elif earlier := children.get(name):
                text = f"duplicate key: line {earlier.head.line} has it already; keep one of them"
                self.problems.append(Problem(place, inner, text))
            else:
                children[name] = self._node(value, inner, place, key.end_mark)
        return children


def read_source(path: Path) -> Source:
    """Read a file as UTF-8 lines; a fault is a `SpecError` without a line, for there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = did_you_mean(path.name, (other.name for other in path.parent.glob("*.yaml")))
        raise SpecError([Fault(f"no such file{hint}", str(path))]) from None
    except UnicodeDecodeError as error:
        text = f"not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})"
        raise SpecError([Fault(text, str(path))]) from None
    except OSError as error:
        raise SpecError([Fault(f"cannot be read: {error.strerror}", str(path))]) from None
    return Source(path, tuple(text.splitlines()))
