"""The whole loop on Kubeflow Pipelines in kind: `make kind-up`, `make kind-test`, `make kind-down`."""
