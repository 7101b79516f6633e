"""What is chosen when the workflow is compiled: who consumes it, and what differs from cluster to cluster."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from pipelines.workflow import parameters as p
from steps.storage.store import BUCKET_VARIABLE


class Target(Enum):
    """Who consumes the manifest."""

    ARGO = "argo"
    ONEPANEL = "onepanel"


def _option(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True)
class Options:
    """Settings that are fixed when the workflow is compiled, rather than when it runs."""

    name: str = _option("detr-training", "Name of the template; workflows get it with a suffix.")
    namespace: str = _option("", "Namespace to write into the manifests. Empty: the one that they are applied in.")
    image: str = _option("", "Image that holds this project with its extra 'train'. Empty: public images and git.")
    base_image: str = _option("python:3.12-slim", "Without --image: where files are moved and prepared.")
    train_image: str = _option(
        p.PYTORCH_IMAGE.value,
        f"Without --image: where the model is trained and evaluated; default of '{p.PYTORCH_IMAGE.name}'.",
    )
    repo: str = _option(p.SOURCE.value, f"Without --image: git repository of the code; default of '{p.SOURCE.name}'.")
    revision: str = _option(p.REVISION.value, f"Without --image: its branch or tag; default of '{p.REVISION.name}'.")
    node_selector: str = _option(
        "node.kubernetes.io/instance-type",
        "Label by which a node pool is chosen; older clusters: beta.kubernetes.io/…",
    )
    node_pool: str = _option("", "Argo: that label's default value. Empty: no selector, the GPU limit finds a node.")
    gpus: int = _option(1, "GPUs of training and evaluation; 0 on a cluster without.")
    volume_size: str = _option("50Gi", "Size of each of the two volumes.")
    storage_class: str = _option("", "Their storage class. Empty: the cluster's default.")
    endpoint: str = _option(
        "", "Argo: address of the S3 server. Empty: the secret's AWS_ENDPOINT_URL_S3, else Amazon's."
    )
    bucket: str = _option("", f"Argo: bucket, a name or gs://name, az://name. Empty: the secret's {BUCKET_VARIABLE}.")
    region: str = _option("", "Argo: the bucket's region. Empty: the secret's AWS_REGION.")
    secret: str = _option(
        "cvat-detr-storage",
        "Argo: secret whose entries become environment variables; if missing, the pod's identity.",
    )
    service_account: str = _option("", "Argo: service account of the pods. Empty: the namespace's default.")


def workflow_parameters(target: Target, options: Options) -> Sequence[p.Parameter]:
    """Give the parameters that this form of the workflow takes."""
    if options.image:
        hint = "Image that holds this project, in which every step runs."
        code: tuple[p.Parameter, ...] = (replace(p.PYTORCH_IMAGE, value=options.image, hint=hint),)
    else:
        code = (
            replace(p.SOURCE, value=options.repo),
            replace(p.REVISION, value=options.revision),
            replace(p.PYTORCH_IMAGE, value=options.train_image),
        )
    if target is Target.ONEPANEL:
        return (*p.PARAMETERS, *code, p.SYS_NODE_POOL)
    if options.node_pool:
        return (*p.PARAMETERS, *code, replace(p.SYS_NODE_POOL, value=options.node_pool))
    return (*p.PARAMETERS, *code)
