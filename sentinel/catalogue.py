"""The experiments of a project: which there are, where they are compiled to, and whether they get along.

    known = discover(Path(), [Path("experiments/arm.yaml")])

A project is a folder with specs in `experiments/`; a spec elsewhere in it belongs to it once a compiled file names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sentinel.errors import Fault, SpecError
from sentinel.spec.load import Loaded, check, load
from sentinel.spec.models import Experiment
from sentinel.spec.siblings import conflicts

ROOT_EXPERIMENT = "retail-cpu"
SPECS = "experiments"
HEADER = "# Compiled by `sentinel compile` from: "
"""How a compiled file begins; the spec follows."""


class Known(NamedTuple):
    """An experiment, and the files it was read from: its own first, then those it extends. Relative to the project."""

    loaded: Loaded
    chain: tuple[str, ...]

    @property
    def experiment(self) -> Experiment:
        """What the files say."""
        return self.loaded.experiment

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment.metadata.name


def path_of(name: str) -> str:
    """The DVC file of an experiment."""
    return "dvc.yaml" if name == ROOT_EXPERIMENT else f"{SPECS}/{name}/dvc.yaml"


def compiled_files(project: Path) -> Iterator[Path]:
    """The DVC files on disk that we compiled."""
    for file in (project / "dvc.yaml", *sorted(project.glob(f"{SPECS}/*/dvc.yaml"))):
        if file.is_file() and file.read_text(encoding="utf-8").startswith(HEADER):
            yield file


def read(path: Path, project: Path) -> Known:
    """Load an experiment; its files must lie in the project, since DVC watches them there."""
    loaded = load(path)
    inside = []
    for file in loaded.sources:
        if not file.resolve().is_relative_to(project.resolve()):
            text = f"lies outside of the project {project.resolve()}, where DVC cannot watch it"
            raise SpecError([Fault(text, str(file))])
        inside.append(file.resolve().relative_to(project.resolve()).as_posix())
    return Known(loaded, tuple(inside))


def _specs(project: Path) -> set[Path]:
    """Specs in their folder, and those that compiled files name, wherever they lie."""
    heads = (file.read_text(encoding="utf-8").partition("\n")[0] for file in compiled_files(project))
    registered = (project / head.removeprefix(HEADER) for head in heads)
    return {*project.glob(f"{SPECS}/*.yaml"), *(path for path in registered if path.is_file())}


def discover(project: Path, named: Sequence[Path] = (), *, strict: bool = True) -> list[Known]:
    """All experiments of the project by name.

    Args:
        project: Its folder.
        named: Experiments that must be valid and get along with all others.
        strict: Whether the same is asked of the others; if not, an invalid one is passed over.
    """
    wanted = {path.resolve(): path for path in named}
    others = {path.resolve(): path for path in _specs(project)}
    known = [read(path, project) for path in wanted.values()]
    faults: list[Fault] = []
    for resolved in sorted(others.keys() - wanted.keys()):
        try:
            known.append(read(others[resolved], project))
        except SpecError as error:
            faults += error.faults
    faults = faults if strict else []
    asked = [path for path in {**others, **wanted}.values() if strict or path.resolve() in wanted]
    for found in conflicts((item.loaded for item in known), asked).values():
        faults += found
    if faults:
        raise SpecError(faults)
    return sorted(known, key=lambda item: item.name)


def validate(paths: Sequence[Path], project: Path) -> dict[Path, list[Fault]]:
    """The faults of each file; of one in the project also those it has beside the others there and in its folder."""
    faults = {path: _faults(path) for path in paths}
    inside = [path for path in paths if path.resolve().is_relative_to(project.resolve())]
    beside = (path for file in inside for path in file.parent.glob("*.yaml"))
    known = {path.resolve(): path for path in (*_specs(project), *beside, *inside)}
    for path, found in conflicts(_readable(known.values()), inside).items():
        faults[path] += found
    return faults


def _faults(path: Path) -> list[Fault]:
    try:
        check(path)
    except SpecError as error:
        return error.faults
    return []


def _readable(paths: Iterable[Path]) -> Iterator[Loaded]:
    """The experiments among the files that have no fault of their own."""
    for path in paths:
        try:
            yield load(path)
        except SpecError:
            continue
