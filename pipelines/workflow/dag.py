"""The pipeline: five boxes in a row, and what each runs on."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from hera.workflows import (
    DAG,
    Container,
    Env,
    GitArtifact,
    Resources,
    RetryStrategy,
    SecretEnvFrom,
    Task,
    UserContainer,
    Workflow,
)
from hera.workflows import Parameter as HeraParameter
from hera.workflows import models as m

from pipelines.manifest.reader import STEPS_COMMAND
from pipelines.workflow import parameters as p
from steps.cli import STEPS, takes_storage
from steps.common.errors import EXIT_USER_ERROR
from steps.storage.config import BUCKET_VARIABLE, ONEPANEL_CONFIG_DIR

DATA = "/mnt/data"
OUTPUT = "/mnt/output"
SOURCE = "/mnt/src"
METRICS_FILE = "/tmp/sys-metrics.json"  # noqa: S108 - where Onepanel's core looks for it
ONEPANEL_CONFIG = str(ONEPANEL_CONFIG_DIR)
LABELS = {"used-by": "cvat"}
TENSORBOARD_PORT = 6006


class Target(Enum):
    """Who consumes the manifest."""

    ARGO = "argo"
    ONEPANEL = "onepanel"


def _option(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True)
class Options:
    """What is settled when the workflow is compiled, rather than when it is run."""

    name: str = _option("detr-training", "Name of the template; workflows get it with a suffix.")
    namespace: str = _option("", "Namespace to write into the manifests. Empty: the one that they are applied in.")
    image: str = _option("", "Image that holds this project with its extra 'train'. Empty: public images and git.")
    base_image: str = _option("python:3.12-slim", "Without --image: where files are moved and prepared.")
    train_image: str = _option(
        "pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime",
        "Without --image: where the model is trained and evaluated.",
    )
    repo: str = _option("https://github.com/cvat-detr/cvat-detr", "Without --image: git repository of the code.")
    revision: str = _option("main", "Without --image: its branch, tag or commit.")
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


def training_workflow(target: Target, options: Options) -> Workflow:
    """Build the workflow: fetch the dump, prepare the data, train, evaluate, upload."""
    parameters = workflow_parameters(target, options)
    build = _Builder(target, options)
    with Workflow(
        generate_name=f"{options.name}-",
        namespace=options.namespace or None,
        entrypoint="main",
        arguments=[
            HeraParameter(name=each.name, value=each.value, description=each.hint, enum=list(each.options) or None)
            for each in parameters
        ],
        labels=LABELS,
        pod_metadata=m.Metadata(labels=LABELS),
        service_account_name=options.service_account or None,
        volume_claim_templates=[build.volume("data"), build.volume("output")],
        volumes=build.shared_volumes(),
    ) as workflow:
        fetch = build.box(
            "fetch-dump",
            "fetch",
            annotation_path=p.ANNOTATION_PATH,
            dataset_dir=DATA,
            namespace="{{workflow.namespace}}",
        )
        prepare = build.box(
            "prepare-data",
            "prepare",
            dataset_dir=DATA,
            val_split=p.VAL_SPLIT,
            seed=p.SEED,
            dump_format=p.DUMP_FORMAT,
            split=p.SPLIT,
            exclude=p.EXCLUDE,
        )
        train = build.gpu_box(
            "train-detr",
            "train",
            dataset_dir=DATA,
            output_dir=OUTPUT,
            model=p.MODEL,
            epochs=p.EPOCHS,
            batch_size=p.BATCH_SIZE,
            hyperparameters=p.HYPERPARAMETERS,
            checkpoint=p.CHECKPOINT,
            seed=p.SEED,
            namespace="{{workflow.namespace}}",
            sidecars=[build.tensorboard()],
        )
        evaluate = build.gpu_box(
            "evaluate",
            "evaluate",
            dataset_dir=DATA,
            output_dir=OUTPUT,
            batch_size=p.BATCH_SIZE,
            metrics_file=METRICS_FILE,
        )
        upload = build.box(
            "upload-artifacts",
            "upload",
            output_dir=OUTPUT,
            output_path=f"{{{{workflow.namespace}}}}/{p.OUTPUT_PATH.reference}/{{{{workflow.name}}}}",
        )
        with DAG(name="main"):
            before: str | None = None
            for box in (fetch, prepare, train, evaluate, upload):
                name = str(box.name)
                # `dependencies`, since Onepanel's core adds some and Argo refuses a DAG that also has `depends`.
                Task(name=name, template=box, dependencies=[before] if before else None)
                before = name
    return workflow


def workflow_parameters(target: Target, options: Options) -> Sequence[p.Parameter]:
    """Give the parameters that this form of the workflow takes."""
    if target is Target.ONEPANEL:
        return (*p.PARAMETERS, p.SYS_NODE_POOL)
    if options.node_pool:
        return (*p.PARAMETERS, replace(p.SYS_NODE_POOL, value=options.node_pool))
    return p.PARAMETERS


VOLUMES = {"data": DATA, "output": OUTPUT}
INSTALL = 'python -m pip install --quiet "$0" && exec "$@"'
# A side-car that fails would fail the step it watches.
INSTALL_OR_GIVE_UP = 'python -m pip install --quiet "$0" && exec "$@"; exit 0'
PIP_ENVIRONMENT = {
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",
}


@dataclass(frozen=True)
class _Builder:
    """Makes the boxes; knows what differs between consumers."""

    target: Target
    options: Options

    def box(
        self,
        name: str,
        step: str,
        *,
        image: str = "",
        extra: str = "",
        gpu: bool = False,
        sidecars: Sequence[UserContainer] = (),
        **arguments: p.Parameter | str,
    ) -> Container:
        """Make a box that runs `python -m steps STEP` with `arguments`, which the step's signature must know."""
        takes = inspect.signature(STEPS[step]).parameters
        if unknown := arguments.keys() - takes.keys():
            raise TypeError(f"step '{step}' takes no {', '.join(sorted(unknown))}")
        args = [*STEPS_COMMAND, step]
        for argument, value in arguments.items():
            args += [
                f"--{argument.replace('_', '-')}",
                value.reference if isinstance(value, p.Parameter) else value,
            ]
        storage = takes_storage(step)
        mounts = [m.VolumeMount(name=volume, mount_path=path) for volume, path in VOLUMES.items() if path in args]
        environment = {"PYTHONUNBUFFERED": "1"}
        if self.options.image:
            # Runs the arguments as they are, whatever the image's entry point.
            command = ["env"]
        else:
            command = ["sh", "-c", INSTALL, f"{SOURCE}{extra}"]
            environment |= PIP_ENVIRONMENT
        if storage and self.target is Target.ONEPANEL:
            mounts.append(m.VolumeMount(name="onepanel", mount_path=ONEPANEL_CONFIG, read_only=True))
        if storage and self.target is Target.ARGO:
            environment |= self._storage_environment()
        if gpu and self.target is Target.ARGO:
            # PyTorch's data-loader workers share tensors there; Onepanel's core mounts its own.
            mounts.append(m.VolumeMount(name="dshm", mount_path="/dev/shm"))  # noqa: S108
        return Container(
            name=name,
            image=self.options.image or image or self.options.base_image,
            command=command,
            args=args,
            env=[Env(name=key, value=value) for key, value in environment.items()],
            env_from=[SecretEnvFrom(name=self.options.secret, optional=True)]
            if storage and self.target is Target.ARGO and self.options.secret
            else None,
            inputs=None
            if self.options.image
            else [
                GitArtifact(name="src", path=SOURCE, repo=self.options.repo, revision=self.options.revision, depth=1)
            ],
            volume_mounts=mounts,
            retry_strategy=self._retries(keeps_its_work=gpu),
            node_selector=self._node_selector() if gpu else None,
            resources=Resources(gpus=self.options.gpus)
            if gpu and self.options.gpus and self.target is Target.ARGO
            else None,
            tolerations=[m.Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")]
            if gpu and self.options.gpus and self.target is Target.ARGO
            else None,
            sidecars=list(sidecars) or None,
        )

    def gpu_box(self, name: str, step: str, **more: Any) -> Container:
        """Make a box for a node that can train."""
        return self.box(name, step, image=self.options.train_image, extra="[train]", gpu=True, **more)

    def tensorboard(self) -> UserContainer:
        """Make the side-car that shows the curves while the training runs."""
        show = [
            "tensorboard",
            "--logdir",
            f"{OUTPUT}/tensorboard",
            "--bind_all",
            "--port",
            str(TENSORBOARD_PORT),
        ]
        return UserContainer(
            name="tensorboard",
            image=self.options.image or self.options.base_image,
            command=["env"] if self.options.image else ["sh", "-c", INSTALL_OR_GIVE_UP, "tensorboard"],
            args=show,
            env=[
                Env(name=key, value=value)
                for key, value in {"ONEPANEL_INTERACTIVE_SIDECAR": "true", **PIP_ENVIRONMENT}.items()
            ],
            ports=[m.ContainerPort(name="tensorboard", container_port=TENSORBOARD_PORT)],
            volume_mounts=[m.VolumeMount(name="output", mount_path=OUTPUT, read_only=True)],
        )

    def volume(self, name: str) -> m.PersistentVolumeClaim:
        """Make the claim of a volume that lives as long as the workflow."""
        return m.PersistentVolumeClaim(
            metadata=m.ObjectMeta(name=name),
            spec=m.PersistentVolumeClaimSpec(
                access_modes=["ReadWriteOnce"],
                resources=m.VolumeResourceRequirements(requests={"storage": m.Quantity(root=self.options.volume_size)}),
                storage_class_name=self.options.storage_class or None,
            ),
        )

    def shared_volumes(self) -> list[m.Volume]:
        """Make the volumes that are there without a claim."""
        if self.target is Target.ONEPANEL:
            sources = [
                m.VolumeProjection(secret=m.SecretProjection(name="onepanel")),
                m.VolumeProjection(config_map=m.ConfigMapProjection(name="onepanel")),
            ]
            return [m.Volume(name="onepanel", projected=m.ProjectedVolumeSource(sources=sources))]
        return [m.Volume(name="dshm", empty_dir=m.EmptyDirVolumeSource(medium="Memory"))]

    def _storage_environment(self) -> dict[str, str]:
        settled = {
            "AWS_ENDPOINT_URL_S3": self.options.endpoint,
            "AWS_REGION": self.options.region,
            BUCKET_VARIABLE: self.options.bucket,
        }
        return {key: value for key, value in settled.items() if value}

    def _retries(self, *, keeps_its_work: bool) -> RetryStrategy:
        if self.target is Target.ARGO:
            # Bad input stays bad; everything else, a lost node above all, deserves another try.
            return RetryStrategy(
                limit="2", retry_policy="Always", expression=f"asInt(lastRetry.exitCode) != {EXIT_USER_ERROR}"
            )
        # Argo v2.12 knows no expression: where a retry starts from nothing, only lost pods are tried again.
        return RetryStrategy(limit="2", retry_policy="Always" if keeps_its_work else "OnError")

    def _node_selector(self) -> dict[str, str] | None:
        if self.target is Target.ONEPANEL or self.options.node_pool:
            return {self.options.node_selector: p.SYS_NODE_POOL.reference}
        return None
