"""Training on nodes of their own: the container of the trainer launches a TrainJob and waits for what it leaves.

    main("train", "runs/retail/02", job, [tasks], policy)

With `trainer.launcher: {type: pod}` this is `sentinel.pod.main`. Otherwise:

    container ── baton into the bucket ── TrainJob ── node 0: the stage (sentinel.pod.node), as in a pod
                                                   └─ node k: its ranks, on the policy from the bucket
    container ── baton from the bucket, when the TrainJob is complete

The TrainJob's name follows from run and stage, so a container that is started again finds the one it began.
"""

from sentinel.launch.main import main

__all__ = ["main"]
