"""`sentinel run`: the local way to run an experiment, through DVC."""

from sentinel.runner.repro import run

__all__ = ["run"]
