"""How a function becomes a component: its image is set per profile, and nothing is installed at run time."""

from collections.abc import Callable
from typing import Any

from kfp import dsl

START = "_KFP_RUNTIME=true python3 -m"
"""How kfp's script starts Python: as a child of the shell, which hands on no signal."""


def component(function: Callable[..., None]) -> Any:
    """A component whose text is the function's; `sentinel.pipelines.place` says which image it runs in.

    Python takes the shell's place, so that whoever ends the container's command ends the stage, in good order.
    """
    made = dsl.component(function, base_image="sentinel-python:dev", install_kfp_package=False)
    container = made.component_spec.implementation.container
    container.command = [word.replace(START, f"exec env {START}") for word in container.command]
    return made
