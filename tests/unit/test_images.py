"""What `make push` writes is what a cluster profile reads; and there is an image for every role that a plan names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.images import LOCK_HEAD, ROLES, VARIANTS, Image, lock_text, locked, table
from sentinel.plan import KINDS

DIGEST = "@sha256:" + "0" * 64


def test_the_lock_is_read_as_it_was_written() -> None:
    images = {
        "trainer-cuda": f"localhost:5000/a/sentinel-trainer-cuda{DIGEST}",
        "trainer": f"r/sentinel-trainer{DIGEST}",
    }
    text = lock_text(images)
    assert locked(text) == images
    assert text.startswith(LOCK_HEAD)
    assert lock_text(dict(reversed(images.items()))) == text


def test_every_role_of_the_plan_has_its_image(root: Path) -> None:
    assert {kind.component for kind in KINDS.values()} == set(ROLES)
    assert all((root / "components" / role / "Dockerfile").is_file() for role in ROLES)
    assert set(VARIANTS["cuda"].targets) == {role for role, target in ROLES.items() if target == "torch"}


def test_every_target_is_in_the_base_dockerfile(root: Path) -> None:
    text = (root / "components/base/Dockerfile").read_text()
    targets = {target for variant in VARIANTS.values() for target in variant.targets.values()}
    assert targets == set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_stands_on_the_base_that_it_is_built_on(root: Path, role: str) -> None:
    text = (root / "components" / role / "Dockerfile").read_text()
    assert f"ARG BASE_IMAGE=sentinel-{ROLES[role]}:dev\n" in text
    assert f'org.opencontainers.image.title="sentinel-{role}"' in text
    assert "ENTRYPOINT" not in text.replace("no ENTRYPOINT", "")


def test_the_table_counts_shared_layers_once() -> None:
    images = [Image("one", "1000:1000", ["a", "b"], 2_000_000), Image("two", "1000:1000", ["a", "b", "c"], 3_000_000)]
    rows = [line.split() for line in table(images).splitlines()]
    assert rows[1:] == [["one", "2", "1000:1000", "2", "2"], ["two", "3", "1000:1000", "3", "1"]]
