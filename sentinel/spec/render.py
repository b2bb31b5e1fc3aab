"""The resolved experiment as a YAML text in which every value says where it comes from.

    print(render(load(Path("experiments/retail-general.yaml"))))
    …
      trainer:
        group_size: 8                             # experiments/retail.yaml:45
        dev_every: 6                              # default

The text is itself an experiment file, equal to the one it shows.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from sentinel.spec.load import Loaded, spec_hash

COLUMN = 56
"""Where the comments begin."""


def render(loaded: Loaded) -> str:
    """The resolved experiment, each value with its file and line, under a header with the chain and the hash."""
    origins = {path: f"{place.source.path}:{place.line}" for path, place in loaded.origins.items()}
    yaml = YAML(typ="rt")
    yaml.width = 4096
    text = StringIO()
    yaml.dump(_commented(loaded.resolved(), origins, ""), text)
    chain = " extends ".join(str(source) for source in loaded.sources)
    return f"# {chain}\n# sha256 of the spec: {spec_hash(loaded.experiment)}\n{text.getvalue()}"


def _commented(values: dict[str, Any], origins: dict[str, str], prefix: str) -> CommentedMap:
    commented = CommentedMap()
    for key, value in values.items():
        path = f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            commented[key] = _commented(value, origins, path)
            continue
        commented[key] = _flow(value)
        commented.yaml_add_eol_comment(f"# {origins.get(path, 'default')}", key=key, column=COLUMN)
    return commented


def _flow(value: Any) -> Any:
    """A list on one line; scalars and empty maps as they are."""
    if not isinstance(value, list):
        return value
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence
