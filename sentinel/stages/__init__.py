"""The only wiring: one module per kind of stage, each `run(context)` from a spec and input files to output files.

A stage knows nothing of DVC or Kubeflow; `sentinel.stages.context` is the harness that both start through
`sentinel stage KIND --run FOLDER`.
"""
