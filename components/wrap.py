"""How a function becomes a component: its image is set per profile, and nothing is installed at run time."""

from collections.abc import Callable
from typing import Any

from kfp import dsl


def component(function: Callable[..., None]) -> Any:
    """A component whose text is the function's; `sentinel.pipelines.place` says which image it runs in."""
    return dsl.component(function, base_image="sentinel-python:dev", install_kfp_package=False)
