"""The table of values in charts/sentinel/README.md, from the schema's descriptions and the default values.

python -m tests.chart.readme         # writes it (`make chart-readme`); a test compares
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from tests.chart.helm import CHART

README = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


class Row(NamedTuple):
    """A line of the table."""

    key: str
    default: str
    description: str


def schema() -> dict[str, Any]:
    """The schema of the values."""
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


def defaults() -> dict[str, Any]:
    """The content of values.yaml."""
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(CHART / "values.yaml")
    return found


def resolve(node: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of the schema, references followed; its own description wins."""
    if reference := node.get("$ref"):
        found: Mapping[str, Any] = whole["$defs"][reference.rpartition("/")[2]]
        return {**found, **node}
    return node


def rows(node: Mapping[str, Any], value: Any, whole: Mapping[str, Any], key: str = "") -> Iterator[Row]:
    """The lines of a part of the schema and all below it."""
    node = resolve(node, whole)
    if key:
        shown = "" if value is None or node.get("properties") else f"`{json.dumps(value)}`"
        yield Row(key, shown, node["description"])
    for name, child in node.get("properties", {}).items():
        below = value.get(name) if isinstance(value, Mapping) else None
        yield from rows(child, below, whole, f"{key}.{name}" if key else name)
    items = resolve(node.get("items", {}), whole)
    for name, child in items.get("properties", {}).items():
        yield from rows(child, None, whole, f"{key}[].{name}")


def table() -> str:
    """All values, as Markdown."""
    whole = schema()
    lines = (f"| `{row.key}` | {row.default} | {row.description} |\n" for row in rows(whole, defaults(), whole))
    return "| value | default | what it is |\n| --- | --- | --- |\n" + "".join(lines)


def with_table(text: str) -> str:
    """A README with the current table between its marks."""
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
