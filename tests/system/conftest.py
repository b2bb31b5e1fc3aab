"""The container tier has a target of its own (`make test-system`): it installs docker and takes minutes."""

collect_ignore = ["containers"]
