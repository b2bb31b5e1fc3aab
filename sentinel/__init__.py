"""SENTINEL: train tool-using language-model agents from their own failures."""

__version__ = "0.1.0"
