"""The Kubeflow side: an experiment's Plan as a pipeline, and the ways to submit it.

    kfp run submit experiments/retail.yaml            the hook: upstream's command, with our specs
    sentinel submit experiments/retail.yaml           the same without it; `--local` needs no cluster
    sentinel doctor                                   what the machine or the cluster lacks

The folder lies at the root of the repository and is imported as `sentinel.pipelines`, so that a wheel claims no
top-level name that another package might have. The same plan is compiled to `dvc.yaml`; DVC alone decides what runs.
"""
