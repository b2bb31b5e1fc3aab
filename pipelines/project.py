"""What a submission carries: the experiment's files as they stand in the checkout, `--set` applied, and what they mean.

A change by `--set` is written into a copy of the spec, as an editor would: the run's spec file has other bytes than
the checkout's, and the same values as a checkout in which the same line was edited.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sentinel import catalogue, dvcfile
from sentinel.errors import SpecError
from sentinel.plan import Plan, plan
from sentinel.pod.baton import Baton
from sentinel.spec.extends import read_chain
from sentinel.spec.models import OWN_TASKS, STORED, Experiment
from sentinel.spec.profile import FOLDER, ProfileSpec, load_profile

LARGEST = 200_000
"""Bytes of one file that is carried inside the pipeline; all of it counts against Kubernetes' limit of an object."""


@dataclass(frozen=True)
class Project:
    """An experiment ready to be compiled."""

    experiment: Experiment
    plan: Plan
    baton: Baton
    """The files; its `parameters` are still to be filled."""
    profile_name: str
    profile: ProfileSpec


def read_project(spec: Path, profile: str, sets: Sequence[str] = (), root: Path = Path()) -> Project:
    """Read and check everything that a submission carries.

    Args:
        spec: The experiment's file, in the project.
        profile: Name or path of the profile.
        sets: `key=value` pairs; keys are dotted paths below `spec`, values are YAML.
        root: The project.

    Raises:
        SpecError: a file has faults, each with its line, or a `--set` cannot be applied.
    """
    place = load_profile(profile)
    item = catalogue.read(spec, root)
    ignored = [name for name in (".dvcignore",) if (root / name).is_file()]
    carried = [*item.chain, *item.experiment.spec.own_files.values(), *_profile_files(profile, root), *ignored]
    code = (root / dvcfile.CODE / "plan.py").is_file()
    with _copy(root, carried, code) as folder, chdir(folder):
        main = Path(item.chain[0])
        if sets:
            main.write_text(with_sets(main.read_text(encoding="utf-8"), sets), encoding="utf-8")
            item = _reread(main, sets)
        known = catalogue.discover(Path(), [main])
        compiled = dvcfile.compile_one(item, known, Path())
        files = {name: _content(Path(name)) for name in carried} | compiled
    baton = Baton(spec=item.chain[0], files=dict(sorted(files.items())), code=code, parameters={})
    return Project(item.experiment, plan(item.experiment), baton, place.metadata.name, place.spec)


def with_sets(text: str, sets: Iterable[str]) -> str:
    """The spec's text after `key=value` pairs; comments stay."""
    yaml = YAML(typ="rt")
    yaml.width = 4096
    yaml.preserve_quotes = True
    document = yaml.load(text)
    for pair in sets:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise SpecError([f"--set {pair}: expected key=value, for example trainer.steps=24"])
        if (path := key.removeprefix("spec.")) in (OWN_TASKS, STORED):
            raise SpecError([f"--set {pair}: it names a file that runs carry; write it into the spec"])
        _assign(document, ["spec", *path.split(".")], _typed(pair, value))
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue()


def _typed(pair: str, value: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(value)
    except YAMLError as error:
        raise SpecError([f"--set {pair}: the value is not YAML: {str(error).splitlines()[0]}"]) from None


def _assign(document: Any, keys: list[str], value: Any) -> None:
    *parents, last = keys
    for key in parents:
        if not isinstance(document.get(key), dict):
            document[key] = {}
        document = document[key]
    document[last] = value


def _reread(main: Path, sets: Sequence[str]) -> catalogue.Known:
    try:
        return catalogue.read(main, Path())
    except SpecError as error:
        pairs = " ".join(f"--set {pair}" for pair in sets)
        raise SpecError([*error.faults, f"the lines are those of the spec after {pairs}"]) from None


def _profile_files(profile: str, root: Path) -> list[str]:
    """The profile's own file and what it extends, so that stages in pods find it by its name."""
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else FOLDER / f"{profile}.yaml"
    files = [source.path.resolve() for source in read_chain(path).sources]
    if outside := [str(file) for file in files if not file.is_relative_to(root.resolve())]:
        raise SpecError([f"{', '.join(outside)}: lies outside of the project; copy it into {FOLDER}/"])
    return [file.relative_to(root.resolve()).as_posix() for file in files]


@contextmanager
def _copy(root: Path, names: Iterable[str], code: bool) -> Iterator[Path]:
    """A folder with these files of the project, and the sign that it holds the package's sources."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file in names:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, folder / file)
        if code:
            (folder / dvcfile.CODE).mkdir()
            (folder / dvcfile.CODE / "plan.py").touch()
        yield folder


def _content(path: Path) -> str:
    if (size := path.stat().st_size) > LARGEST:
        raise SpecError([f"{path}: {size:,} bytes are more than a run can carry ({LARGEST:,})"])
    return path.read_text(encoding="utf-8")
