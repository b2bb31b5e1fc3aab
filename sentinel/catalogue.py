"""The experiments of a project: which there are, where they are compiled to, and whether they get along.

    known = discover(Path(), [Path("experiments/arm.yaml")])

A project is a folder with specs in `experiments/`; a spec elsewhere in it belongs to it once a compiled file names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sentinel.errors import Fault, SpecError
from sentinel.spec.expand import members
from sentinel.spec.load import Loaded, check, load
from sentinel.spec.models import Experiment
from sentinel.spec.siblings import conflicts
from sentinel.spec.source import did_you_mean
from sentinel.spec.study import Study

ROOT_EXPERIMENT = "retail-cpu"
SPECS, STUDIES = "experiments", "studies"
"""Folder of the specs, and in it that of the studies."""
HEADER = "# Compiled by `sentinel compile` from: "
"""How a compiled file begins; the spec follows."""


class Known(NamedTuple):
    """An experiment, and the files it was read from: its own first, then those it extends. Relative to the project."""

    loaded: Loaded
    chain: tuple[str, ...]
    study: str = ""
    """The study it is a member of."""

    @property
    def experiment(self) -> Experiment:
        """What the files say."""
        return self.loaded.experiment

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment.metadata.name

    @property
    def file(self) -> str:
        """The DVC file it is compiled to; the members of a study share one."""
        if self.study:
            return f"{SPECS}/{STUDIES}/{self.study}/dvc.yaml"
        return "dvc.yaml" if self.name == ROOT_EXPERIMENT else f"{SPECS}/{self.name}/dvc.yaml"


def named(spec: Path, project: Path) -> Path:
    """The file of an experiment or study that is given by its name alone; any other path as it is.

    Raises:
        SpecError: There is neither a file nor an experiment of that name.
    """
    if spec.suffix or len(spec.parts) != 1 or spec.is_file():
        return spec
    files = {file.stem: file for folder in (f"{SPECS}/{STUDIES}", SPECS) for file in (project / folder).glob("*.yaml")}
    if found := files.get(spec.name):
        return found
    place = f"{did_you_mean(spec.name, files)}" if files else f": there is no folder {SPECS}/ here; go to the project's"
    raise SpecError([Fault(f"no such file, and no experiment of this name{place}", str(spec))])


def compiled_files(project: Path) -> Iterator[Path]:
    """The DVC files on disk that we compiled."""
    folders = (f"{SPECS}/*/dvc.yaml", f"{SPECS}/{STUDIES}/*/dvc.yaml")
    for file in (project / "dvc.yaml", *(file for pattern in folders for file in sorted(project.glob(pattern)))):
        if file.is_file() and file.read_text(encoding="utf-8").startswith(HEADER):
            yield file


def read(path: Path, project: Path) -> Known:
    """Load an experiment; its files must lie in the project, since DVC watches them there."""
    return Known(loaded := load(path), _inside(loaded, project))


def read_all(path: Path, project: Path) -> list[Known]:
    """Load the experiments of a file: its own, or the members of a study."""
    content = check(path)
    study = content.metadata.name if isinstance(content, Study) else ""
    return [Known(member, _inside(member, project), study) for member in members(path)]


def outside(file: Path, project: Path) -> str:
    """What is wrong with the place of a file that no experiment here can be run from; nothing if it lies inside."""
    if file.resolve().is_relative_to(project.resolve()):
        return ""
    return f"lies outside of the project {project.resolve()}, where DVC cannot watch it"


def _inside(loaded: Loaded, project: Path) -> tuple[str, ...]:
    """The files of an experiment, relative to the project."""
    inside = []
    for file in loaded.sources:
        if outside(file, project):
            raise SpecError([Fault(f"{outside(file, project)}: copy it into {SPECS}/", str(file))])
        inside.append(file.resolve().relative_to(project.resolve()).as_posix())
    return tuple(inside)


def _specs(project: Path) -> set[Path]:
    """Specs in their folder, and those that compiled files name, wherever they lie."""
    heads = (file.read_text(encoding="utf-8").partition("\n")[0] for file in compiled_files(project))
    registered = (project / head.removeprefix(HEADER) for head in heads)
    folders = (f"{SPECS}/*.yaml", f"{SPECS}/{STUDIES}/*.yaml")
    found = (path for pattern in folders for path in project.glob(pattern))
    return {*found, *(path for path in registered if path.is_file())}


def discover(project: Path, named: Sequence[Path] = (), *, strict: bool = True) -> list[Known]:
    """All experiments of the project by name.

    Args:
        project: Its folder.
        named: Experiments that must be valid and get along with all others.
        strict: Whether the same is asked of the others; if not, an invalid one is passed over.
    """
    wanted = {path.resolve(): path for path in named}
    others = {path.resolve(): path for path in _specs(project)}
    known = [item for path in wanted.values() for item in read_all(path, project)]
    faults: list[Fault] = []
    for resolved in sorted(others.keys() - wanted.keys()):
        try:
            known += read_all(others[resolved], project)
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
        if isinstance(check(path), Study):
            members(path)
    except SpecError as error:
        return error.faults
    return []


def _readable(paths: Iterable[Path]) -> Iterator[Loaded]:
    """The experiments among the files that have no fault of their own."""
    for path in paths:
        try:
            yield from members(path)
        except SpecError:
            continue
