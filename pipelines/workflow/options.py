"""What is chosen when the workflow is compiled: who consumes it, and what differs from cluster to cluster."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from pipelines.workflow import parameters as p
from steps.storage.config import BUCKET_VARIABLE


class Target(Enum):
    """Who consumes the manifest."""

    ARGO = "argo"
    ONEPANEL = "onepanel"


def _option(default: Any, help_: str, empty: str = "") -> Any:
    """Declare a setting; `empty` says what its empty default means."""
    return field(default=default, metadata={"help": help_, "empty": empty})


@dataclass(frozen=True)
class Options:
    """Settings that are fixed when the workflow is compiled, rather than when it runs."""

    name: str = _option("detr-training", "Name of the template; workflows get it with a suffix.")
    namespace: str = _option("", "Namespace to write into the manifests.", "the one that they are applied in")
    image: str = _option(
        "",
        "Image that holds this project with its extras 'train', 'hf' for hf: models and 'cvat' for CVAT servers.",
        "public images, and the code from git",
    )
    base_image: str = _option("python:3.12-slim", "Without --image: image in which files are moved and prepared.")
    train_image: str = _option(
        p.PYTORCH_IMAGE.value,
        f"Without --image: image for training and evaluation, the default of '{p.PYTORCH_IMAGE.name}'.",
    )
    repo: str = _option(
        p.SOURCE.value, f"Without --image: git repository of the code, the default of '{p.SOURCE.name}'."
    )
    revision: str = _option(
        p.REVISION.value, f"Without --image: its branch or tag, the default of '{p.REVISION.name}'."
    )
    node_selector: str = _option(
        "node.kubernetes.io/instance-type",
        "Label that selects a node pool; on older clusters beta.kubernetes.io/instance-type.",
    )
    node_pool: str = _option("", "Argo: default value of that label.", "no selector, the GPU limit finds a node")
    gpus: int = _option(1, "GPUs for training and evaluation; 0 on a cluster without.")
    volume_size: str = _option("50Gi", "Size of each of the two volumes.")
    storage_class: str = _option("", "Storage class of the volumes.", "the cluster's default")
    endpoint: str = _option("", "Argo: address of the S3 server.", "AWS_ENDPOINT_URL_S3 in the secret, else Amazon S3")
    bucket: str = _option("", "Argo: bucket, a name or gs://name, az://name.", f"{BUCKET_VARIABLE} in the secret")
    region: str = _option("", "Argo: region of the bucket.", "AWS_REGION in the secret")
    secret: str = _option(
        "cvat-detr-storage",
        "Argo: secret whose entries become environment variables; without it, the pod's own identity is used.",
    )
    annotate: bool = _option(
        False, f"Add a sixth step: the model annotates the tasks of a CVAT server that '{p.ANNOTATE.name}' names."
    )
    service_account: str = _option("", "Argo: service account of the pods.", "the namespace's default")


def workflow_parameters(target: Target, options: Options) -> Sequence[p.Parameter]:
    """Return the parameters of this form of the workflow."""
    common = (*p.PARAMETERS, p.ANNOTATE) if options.annotate else p.PARAMETERS
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
        return (*common, *code, p.SYS_NODE_POOL)
    if options.node_pool:
        return (*common, *code, replace(p.SYS_NODE_POOL, value=options.node_pool))
    return (*common, *code)
