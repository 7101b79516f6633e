"""What is chosen when the workflow is compiled: who consumes it, and what differs from cluster to cluster."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from hera.workflows import models as m
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from pipelines.errors import PipelineError
from pipelines.workflow import parameters as p
from pipelines.workflow import values as v
from pipelines.workflow.contract import BOXES
from steps.common.files import parse_yaml
from steps.storage.config import BUCKET_VARIABLE

SETTINGS_FILE = "compile.yaml"
"""Where what was chosen is kept, in the folder of the manifests."""
SETTINGS_HEADER = """\
# What `compile` was told, and what it goes by from now on: `make compile` does not need to be told again.
# `cvat-detr compile --help` lists the settings. A flag writes this file anew, without comments of your own.
"""
TENSORBOARD = "tensorboard"


class Target(Enum):
    """Who consumes the manifest."""

    ARGO = "argo"
    ONEPANEL = "onepanel"


def _option(default: Any, help_: str, empty: str = "") -> Any:
    """Declare a setting; `empty` says what its empty default means."""
    metadata = {"help": help_, "empty": empty}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _known(*names: str) -> AfterValidator:
    def check(given: dict[str, Any]) -> dict[str, Any]:
        for name in given:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names)}"
                raise ValueError(f"there is no '{name}': {hint}")
        return given

    return AfterValidator(check)


class Toleration(m.Toleration):
    """A toleration in which a misspelt field is noticed."""

    model_config = ConfigDict(extra="forbid")


Amounts = dict[Literal["cpu", "memory", "ephemeral-storage"], v.Quantity | None]
ByStep = dict[str, dict[Literal["requests", "limits"], Amounts]]

# Requests that a small cluster has room for; limits that end a step gone wild before it harms its neighbours.
_FILES = {
    "requests": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"},
    "limits": {"memory": "8Gi", "ephemeral-storage": "10Gi"},
}
_MODEL = {
    "requests": {"cpu": "1", "memory": "4Gi", "ephemeral-storage": "4Gi"},
    "limits": {"memory": "32Gi", "ephemeral-storage": "30Gi"},
}
_SIDE_CAR = {
    "requests": {"cpu": "50m", "memory": "256Mi", "ephemeral-storage": "512Mi"},
    "limits": {"memory": "2Gi", "ephemeral-storage": "4Gi"},
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Settings that are fixed when the workflow is compiled, rather than when it runs."""

    name: v.ShortName = _option("detr-training", "Name of the template; workflows get it with a suffix.")
    namespace: v.Label = _option("", "Namespace to write into the manifests.", "the one that they are applied in")
    image: v.Image = _option(
        "",
        "Image made from the Dockerfile's target 'train', in which every step runs. The recommended form.",
        "public images, and the code from git",
    )
    steps_image: v.Image = _option(
        "",
        "With --image: smaller image, from the target 'steps', for the steps that move and prepare files.",
        "--image",
    )
    base_image: v.Image = _option("python:3.12-slim", "Without --image: image in which files are moved and prepared.")
    train_image: v.Image = _option(
        p.PYTORCH_IMAGE.value,
        f"Without --image: image for training and evaluation, the default of '{p.PYTORCH_IMAGE.name}'.",
    )
    repo: str = _option(
        p.SOURCE.value, f"Without --image: git repository of the code, the default of '{p.SOURCE.name}'."
    )
    revision: str = _option(
        p.REVISION.value, f"Without --image: its branch, tag or commit, the default of '{p.REVISION.name}'."
    )
    git_secret: v.ObjectName = _option(
        "",
        "Without --image: secret for a private --repo, with 'username' and 'password' (a token), or with "
        "'ssh-privatekey' where --repo is an SSH address.",
        "a public repository",
    )
    image_pull_secrets: list[v.ObjectName] = _option(
        [], "Secrets for private registries, such as '[registry]'.", "none"
    )
    env: v.Variables = _option(
        {},
        "Variables for every step, such as '{HTTPS_PROXY: http://proxy:3128, PIP_INDEX_URL: https://pypi.example.com}'.",
        "none",
    )
    node_selector: v.LabelKey = _option(
        "node.kubernetes.io/instance-type",
        "Label that selects a node pool; on older clusters beta.kubernetes.io/instance-type.",
    )
    node_pool: str = _option("", "Argo: default value of that label.", "no selector, the GPU limit finds a node")
    node_labels: dict[v.LabelKey, str] = _option(
        {},
        "Argo: labels of the nodes on which every step runs, such as '{topology.kubernetes.io/zone: a}', since a "
        "volume can usually be mounted in one zone only.",
        "any node",
    )
    tolerations: list[Toleration] = _option(
        [], "Tolerations of every step, such as '[{key: spot, operator: Exists}]'.", "those of the GPU"
    )
    priority_class: v.ObjectName = _option("", "Priority class of the pods.", "the cluster's default")
    gpus: v.Count = _option(
        1, "GPUs for training, with one process each; evaluation takes one. 0 on a cluster without."
    )
    nodes: Annotated[int, Field(ge=1, le=1000)] = _option(
        1,
        "Argo: machines that train together, each with --gpus; more than one need --image, a --storage-class whose "
        "volumes many nodes can write, and JobSet in the cluster.",
    )
    queue: v.Label = _option("", "Argo: with --nodes, Kueue's queue.", "none")
    artifacts: bool = _option(
        False,
        "Argo: keep report, metrics and the upload's manifest as artifacts too, which needs an artifact repository in "
        "the cluster.",
    )
    reuse_data: bool = _option(
        False,
        "Argo: keep prepared data in the bucket, and take them from there when dump, settings and code are the same: "
        "saves CVAT's export, unpacking and preparing.",
    )
    schedule: str = _option(
        "", "Argo: when to train again, in cron's words such as '0 3 * * *'; makes a CronWorkflow.", "no CronWorkflow"
    )
    timezone: str = _option("", "Argo: time zone of the schedule, such as Europe/Berlin.", "UTC")
    schedule_dump: str = _option("", "Argo: with --schedule, the dump, as cvat-annotation-path takes it.")
    resources: Annotated[ByStep, _known(*BOXES, TENSORBOARD)] = _option(
        {
            "fetch-dump": _FILES,
            "prepare-data": _FILES,
            "remember-data": _FILES,
            "train-detr": _MODEL,
            "evaluate": _MODEL,
            "upload-artifacts": _FILES,
            "promote-model": _MODEL,
            "annotate": _MODEL,
            TENSORBOARD: _SIDE_CAR,
        },
        "What differs from the requests and limits of a step, such as '{train-detr: {limits: {memory: 64Gi}}}'; null "
        "removes one. On Onepanel the node pool decides about training and evaluation.",
        "see docs/operators.md",
    )
    volume_size: v.Quantity = _option("50Gi", "Size of each of the two volumes.")
    storage_class: v.ObjectName = _option("", "Storage class of the volumes.", "the cluster's default")
    endpoint: str = _option("", "Argo: address of the S3 server.", "AWS_ENDPOINT_URL_S3 in the secret, else Amazon S3")
    bucket: str = _option("", "Argo: bucket, a name or gs://name, az://name.", f"{BUCKET_VARIABLE} in the secret")
    region: str = _option("", "Argo: region of the bucket.", "AWS_REGION in the secret")
    secret: v.ObjectName = _option(
        "cvat-detr-storage",
        "Argo: secret whose entries become environment variables; without it, the pod's own identity is used.",
    )
    annotate: bool = _option(
        False, f"Add a sixth step: the model annotates the tasks of a CVAT server that '{p.ANNOTATE.name}' names."
    )
    service_account: v.ObjectName = _option("", "Argo: service account of the pods.", "the namespace's default")
    restricted: bool = _option(
        True, "Argo: pods that Pod Security 'restricted' admits: not root, no privileges, a read-only root file system."
    )
    user: Annotated[int, Field(ge=1, le=2**31 - 1)] = _option(1000, "Argo: the user, and the group, that they run as.")
    retries: v.Count = _option(2, "How often a step that failed with a defect is tried again.")
    interruptions: v.Count = _option(
        10,
        "How often a step is tried again that was preempted or evicted, lost its node, or may pass (exit status 75).",
    )
    deadlines: Annotated[dict[str, v.Duration], _known(*BOXES)] = _option(
        {
            "fetch-dump": "12h",
            "prepare-data": "6h",
            "remember-data": "12h",
            "train-detr": "7d",
            "evaluate": "12h",
            "upload-artifacts": "12h",
            "promote-model": "12h",
            "annotate": "12h",
        },
        "What differs from the longest time that an attempt of a step may take, such as '{train-detr: 14d}'.",
        "see docs/operators.md",
    )
    keep_succeeded: v.Duration = _option("7d", "Argo: how long a workflow that succeeded is kept. Empty: for ever.")
    keep_failed: v.Duration = _option(
        "3d",
        "Argo: how long one that failed is kept, with its volumes, so that `argo retry` can go on. Empty: for ever.",
    )
    pod_gc: Literal["OnPodCompletion", "OnPodSuccess", "OnWorkflowCompletion", "OnWorkflowSuccess", ""] = _option(
        "OnWorkflowSuccess", "Argo: when pods, and with them their logs, are deleted. Empty: with the workflow."
    )

    @classmethod
    def create(cls, settings: Mapping[str, Any]) -> "Options":
        """Make options of what differs from the defaults; mappings are laid over the default ones.

        Raises:
            PipelineError: a setting is unknown, or its value is not one that it can have.
        """
        fields = {each.name: each for each in dataclasses.fields(cls)}
        for name in settings:
            if name not in fields:
                close = difflib.get_close_matches(str(name), fields, n=1)
                hint = f": did you mean '{_flag(close[0])}'?" if close else ": `compile --help` lists them"
                raise PipelineError(f"there is no setting '{_flag(str(name))}'{hint}")
        defaults = {
            name: each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            for name, each in fields.items()
        }
        try:
            options = cls(**merged(defaults, settings))
            if options.nodes > 1 and not options.image:
                raise PipelineError("the setting 'nodes' needs 'image': pods of a JobSet do not clone the code")
            if options.schedule and not options.schedule_dump:
                raise PipelineError("the setting 'schedule' needs 'schedule-dump': nobody fills in a form at night")
            return options
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(
                [_flag(str(first["loc"][0])), *(str(each) for each in first["loc"][1:] if each != "[key]")]
            )
            reason = first["msg"].removeprefix("Value error, ")
            raise PipelineError(f"the setting '{place}' is {first['input']!r}: {reason}") from None


def _flag(name: str) -> str:
    return name.replace("_", "-")


def merged(below: Any, above: Any) -> Any:
    """Lay one mapping over another, key by key; what is no mapping replaces what it covers."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}
    return above


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what was chosen for the manifests of a folder; nothing if it holds no such file.

    Raises:
        PipelineError: the file is not YAML, or no mapping.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    try:
        settings = parse_yaml(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(settings, dict):
        raise PipelineError(f"{path} must be a mapping, one 'setting: value' a line")
    return {str(name).replace("-", "_"): value for name, value in settings.items()}


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep what was chosen for the manifests of a folder."""
    text = yaml.safe_dump({_flag(name): value for name, value in settings.items()}, sort_keys=False, allow_unicode=True)
    (folder / SETTINGS_FILE).write_text(SETTINGS_HEADER + text, encoding="utf-8")


def chosen_options(folder: Path) -> Options:
    """Return the options that the manifests of a folder are compiled with.

    Raises:
        PipelineError: its settings are not readable, or not possible.
    """
    settings = read_settings(folder)
    try:
        return Options.create(settings)
    except PipelineError as error:
        raise PipelineError(f"{folder / SETTINGS_FILE}: {error}") from None


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
