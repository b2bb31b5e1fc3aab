"""The schema of the values: strict everywhere, described everywhere, and its refusals say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.chart import readme
from tests.chart.helm import CHART, FILES, Refused, render

BROKEN: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(Path(__file__).with_name("broken.yaml"))
FREE = "/properties/global"
"""Helm's own, for charts above this one."""


def parts(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of the schema that describes a value."""
    if not isinstance(node, dict):
        return
    if "type" in node or "enum" in node:
        yield where, node
    for name in ("properties", "$defs"):
        for key, child in node.get(name, {}).items():
            yield from parts(child, f"{where}/{name}/{key}")
    yield from parts(node.get("items"), f"{where}/items")


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["why"])
def test_broken_values_are_refused_and_the_message_says_why(case: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        render(values=case["values"])
    assert case["message"] in str(refused.value)


def test_there_are_many_broken_files_and_none_breaks_twice() -> None:
    assert len(BROKEN) >= 15
    assert len({str(case["values"]) for case in BROKEN}) == len({case["why"] for case in BROKEN}) == len(BROKEN)


def test_no_object_takes_what_it_does_not_know() -> None:
    """Free maps are of strings; everything else names its keys."""
    found = [(where, part) for where, part in parts(readme.schema()) if part.get("type") == "object"]
    assert len(found) > 20
    for where, part in found:
        allowed = part.get("additionalProperties")
        named = part.get("properties") or part.get("patternProperties")
        assert (allowed is False and named) or allowed == {"type": "string"} or where == FREE, where


def test_every_value_is_described() -> None:
    described = [where for where, part in parts(readme.schema()) if where and "/items" not in where]
    undescribed = [
        where for where, part in parts(readme.schema()) if not part.get("description") and where in described
    ]
    assert undescribed == []


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(readme.schema())


def test_the_defaults_name_every_section_of_the_schema() -> None:
    assert set(readme.schema()["properties"]) - set(readme.defaults()) == {"global"}
    assert set(readme.schema()["required"]) == set(readme.defaults())


@pytest.mark.parametrize("name", FILES)
def test_shipped_values_hold_no_secret_and_no_latest(name: str) -> None:
    text = (CHART / FILES[name]).read_text(encoding="utf-8")
    assert ":latest" not in text and "password" not in text.lower()
    assert render(name)


def test_the_readme_shows_the_values_as_they_are() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert text == readme.with_table(text), "make chart-readme"
