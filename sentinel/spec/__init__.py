"""Experiments and profiles as checked, typed data; needs pydantic and ruamel.yaml, and nothing heavy."""

from sentinel.spec.load import Loaded, check, load, spec_hash
from sentinel.spec.models import API_VERSION, Experiment, ExperimentSpec
from sentinel.spec.profile import Profile, ProfileSpec, load_profile

__all__ = [
    "API_VERSION",
    "Experiment",
    "ExperimentSpec",
    "Loaded",
    "Profile",
    "ProfileSpec",
    "check",
    "load",
    "load_profile",
    "spec_hash",
]
