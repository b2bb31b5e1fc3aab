"""Strict validation of objects against Kubernetes' own schemas, one validator for each version, read once."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from tests.chart.helm import Object

FOREIGN = ("trainer.kubeflow.org/", "kueue.x-k8s.io/", "monitoring.coreos.com/")
"""API groups of custom resources, which Kubernetes' schemas do not know."""


@cache
def _definitions(folder: str, version: str) -> Registry[Any]:
    definitions: Resource[Any] = Resource.from_contents(
        schema_contents(f"kubernetes-json-schema/{folder}/_definitions.json", version)
    )
    registry: Registry[Any] = Registry()
    return definitions @ registry


@cache
def _validator(kind: str, api: str, version: str) -> Any:
    folder = f"v{version}.0-local-strict"
    name = f"{kind.lower()}-" + re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    schema = schema_contents(f"kubernetes-json-schema/{folder}/{name}.json", version)
    registry = Resource.from_contents(schema) @ _definitions(folder, version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


def faults(found: Object, version: str) -> list[str]:
    """What Kubernetes `1.34` would not take of an object, unknown fields included.

    Raises:
        FileNotFoundError: This version has no such kind.
    """
    errors = _validator(found["kind"], found["apiVersion"], version).iter_errors(found)
    return [f"{found['kind']}/{found['metadata']['name']}: {error.json_path}: {error.message}" for error in errors]


def is_foreign(found: Object) -> bool:
    """Whether an object is a custom resource."""
    return str(found["apiVersion"]).startswith(FOREIGN)
