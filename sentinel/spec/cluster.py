"""The cluster section of a profile: where Kubeflow Pipelines is, and what each container gets there.

    spec:
      cluster:
        bucket: {url: "s3://sentinel/cas", endpoint: "http://seaweedfs.kubeflow:8333"}
        secrets: [{name: sentinel-s3, env: {AWS_ACCESS_KEY_ID: accesskey, AWS_SECRET_ACCESS_KEY: secretkey}}]
        roles: {trainer: {gpus: 4, memory: 256Gi, shm: 64Gi}}

Secrets are named, never written. Nothing here is hashed: the same experiment gives the same artifacts everywhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sentinel.spec.models import Positive, Section

Role = Literal["controller", "proposer", "rollout", "trainer", "evaluator"]
"""The containers; `sentinel.plan.KINDS` says which stages each runs."""
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$")]
"""A Kubernetes quantity: `500m`, `4`, `16Gi`."""
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
"""Name of an environment variable."""
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""Name of a Kubernetes object."""
Folder = Annotated[str, Field(pattern=r"^/\S*$")]
"""An absolute path in the container."""


class Bucket(Section):
    """The DVC remote that pods and laptops share: outputs by hash, and which stage made them (the run-cache)."""

    url: Annotated[str, Field(pattern=r"^(s3://|gs://|azure://|/)\S+$")]
    """`s3://bucket/prefix`, or an absolute folder that every container sees."""
    endpoint: Url | None = None
    """S3 endpoint, if it is not Amazon's."""
    region: str | None = None
    """S3 region, if the endpoint wants one."""


class Secret(Section):
    """A Kubernetes secret whose keys become environment variables of every container."""

    name: ObjectName
    """Name of the secret, in the namespace where the pods run."""
    env: Annotated[dict[Variable, str], Field(min_length=1)]
    """Environment variable -> key of the secret."""


class Claim(Section):
    """A persistent volume claim that holds journals and step checkpoints, so that a killed pod resumes."""

    claim: ObjectName
    """Name of the claim; pods on several nodes need ReadWriteMany."""
    mount: Folder = "/state"
    """Where it is mounted."""


class Toleration(Section):
    """A taint that the pods tolerate."""

    key: str
    """Key of the taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether the value matters."""
    value: str | None = None
    """Value of the taint, for `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; none tolerates all."""


class Retries(Section):
    """How often a failed container is started again; finished stages come from the bucket, killed ones resume."""

    limit: Annotated[int, Field(ge=0, le=20)] = 3
    """Restarts."""
    backoff_seconds: Positive = 30
    """Pause before the first restart."""
    factor: Annotated[float, Field(ge=1.0)] = 2.0
    """Each pause is this many times the last one."""
    longest_seconds: Positive = 1800
    """Longest pause."""


class Resources(Section):
    """What the container of a role asks for, and where it may run."""

    cpu: Quantity | None = None
    """CPU request and limit."""
    memory: Quantity | None = None
    """Memory request and limit."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """Accelerators."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of the extended resource."""
    shm: Quantity | None = None
    """Size of /dev/shm (NCCL and vLLM need several GiB)."""
    variant: Annotated[str, Field(pattern=r"^[a-z0-9]+$")] | None = None
    """Variant of the image: `cuda` takes `trainer-cuda` instead of `trainer`."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes it may run on."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints it tolerates."""
    timeout_hours: Positive | None = None
    """Hours after which Kubernetes ends the pod."""


class LockedImages(Section):
    """Images by digest: what ran can be named for ever."""

    type: Literal["locked"]
    lock: str = "images.lock"
    """File that `make push` writes: image -> reference with digest."""


class TaggedImages(Section):
    """Images by tag, for machines of one's own."""

    type: Literal["tagged"] = "tagged"
    prefix: str = "sentinel-"
    """What stands before the role: `sentinel-` gives `sentinel-trainer:dev`."""
    tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")] = "dev"
    """The tag; `latest` would make Kubernetes pull it each time."""


class Cluster(Section):
    """Kubeflow Pipelines, and everything that a container needs there."""

    endpoint: Url | None = None
    """The KFP API; otherwise `KF_PIPELINES_ENDPOINT`, or the cluster of the current kubectl context."""
    namespace: ObjectName = "kubeflow"
    """Where the runs live."""
    service_account: ObjectName | None = None
    """Account of the pods, if not KFP's default."""
    images: Annotated[LockedImages | TaggedImages, Field(discriminator="type")] = TaggedImages()
    """Where the images come from."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When a node pulls an image."""
    pull_secrets: tuple[ObjectName, ...] = ()
    """Secrets for the image registry."""
    bucket: Bucket
    """The DVC remote."""
    secrets: tuple[Secret, ...] = ()
    """Credentials, by name."""
    environment: dict[Variable, str] = Field(default_factory=dict)
    """Further environment variables of every container; nothing secret."""
    state: Claim | None = None
    """Volume for what survives a kill; without it a killed stage begins anew."""
    retries: Retries = Retries()
    """Restarts of failed containers."""
    roles: dict[Role, Resources] = Field(default_factory=dict)
    """What each container gets."""
