"""JSON Schemas of the files people write, for editors and for checks without our command line.

A file that `extends` another need not be complete, so each schema holds its models twice: as they are, and as overlays
in which no key is required, `null` deletes any key, and a union takes the keys of any of its variants.
"""

from __future__ import annotations

import json
from typing import Any

from sentinel.spec.models import Experiment, Section
from sentinel.spec.profile import Profile
from sentinel.spec.study import Study

Schema = dict[str, Any]

KINDS: dict[str, type[Section]] = {"experiment": Experiment, "profile": Profile, "study": Study}
"""Name of the schema file -> model of the files it describes."""

EXTENDS: Schema = {
    "type": "string",
    "description": "The file this one builds on, relative to it: maps merge, lists replace, null deletes.",
}


def schema(kind: str) -> Schema:
    """The JSON Schema of an `experiment` or a `profile` file."""
    model = KINDS[kind]
    full = model.model_json_schema()
    definitions = full.pop("$defs")
    overlays = {f"{name}Overlay": _overlay(definition) for name, definition in definitions.items()}
    overlay = _overlay(full)
    overlay["properties"]["extends"] = EXTENDS
    overlay["required"] = ["apiVersion", "kind", "extends", "metadata"]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"SENTINEL {kind}",
        "if": {"type": "object", "required": ["extends"]},
        "then": {"$ref": f"#/$defs/{model.__name__}Overlay"},
        "else": {"$ref": f"#/$defs/{model.__name__}"},
        "$defs": {**definitions, **overlays, model.__name__: full, f"{model.__name__}Overlay": overlay},
    }


def schema_text(kind: str) -> str:
    """The schema as the text of its file."""
    return json.dumps(schema(kind), indent=1, ensure_ascii=False) + "\n"


def _overlay(definition: Any) -> Any:
    """A definition as an overlay: nothing required, every property deletable, references to overlays."""
    if isinstance(definition, list):
        return [_overlay(item) for item in definition]
    if not isinstance(definition, dict):
        return definition
    changed = {
        _rename(key): _overlay(value) for key, value in definition.items() if key not in ("required", "discriminator")
    }
    if "$ref" in changed:
        changed["$ref"] += "Overlay"
    if definition.get("additionalProperties") is False:
        changed["additionalProperties"] = {"type": "null"}
    if isinstance(definition.get("properties"), dict):
        changed["properties"] = {key: _deletable(_overlay(value)) for key, value in definition["properties"].items()}
    return changed


def _rename(key: str) -> str:
    """Variants of an overlay overlap where it names no `type`: any of them will do."""
    return "anyOf" if key == "oneOf" else key


def _deletable(value: Schema) -> Schema:
    return value if "const" in value else {"anyOf": [value, {"type": "null"}]}
