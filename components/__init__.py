"""One folder per container: `component.py` says what Kubeflow sees of it, the Dockerfile what is in it. No logic.

The functions' bodies are what runs in the container: one call into `sentinel.pod`. Their text is embedded in every
compiled pipeline, so they are as short as can be; what an artifact holds is said in the folder's README.
"""
