"""What a container does: run exactly one stage through DVC, with the bucket's run-cache as the bus between pods.

    main("train", "runs/retail/02", job, [tasks], policy)

    baton of the pod before ── a fresh folder without git ── dvc repro --single-item --pull ── push ── the next baton

A pod holds no state: its folder is laid out from the baton (the experiment's files and the lock entries of everything
done so far), the data comes from the bucket by hash, and the stage runs only if the run-cache does not have it.
Afterwards a checkout's `dvc repro --pull` finds the same entries and executes nothing. Knows nothing of Kubeflow: what
it is given are paths.
"""

from sentinel.pod.main import main

__all__ = ["main"]
