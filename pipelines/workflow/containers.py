"""The containers of the steps, and the volumes that they mount, for each consumer."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hera.workflows import Container, Env, GitArtifact, Resources, RetryStrategy, SecretEnvFrom, UserContainer
from hera.workflows import models as m

from pipelines.workflow import parameters as p
from pipelines.workflow.contract import (
    CODE,
    ONEPANEL_CONFIG,
    ONEPANEL_VOLUME,
    OUTPUT,
    STEPS_COMMAND,
    TENSORBOARD_PORT,
    VOLUMES,
)
from pipelines.workflow.options import Options, Target
from steps.cli import STEPS, takes_storage
from steps.common.errors import EXIT_USER_ERROR
from steps.storage.config import BUCKET_VARIABLE

INSTALL = 'python -m pip install --quiet "$0" && exec "$@"'
# A side-car that fails would fail the step it watches.
INSTALL_OR_EXIT = 'python -m pip install --quiet "$0" && exec "$@"; exit 0'
PIP_ENVIRONMENT = {
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",
}


@dataclass(frozen=True)
class ContainerBuilder:
    """Makes the containers; knows what differs between consumers."""

    target: Target
    options: Options

    def step(
        self,
        name: str,
        step: str,
        *,
        extra: str = "",
        gpu: bool = False,
        sidecars: Sequence[UserContainer] = (),
        **arguments: p.Parameter | str,
    ) -> Container:
        """Make a container template that runs `python -m steps STEP`.

        Args:
            name: the template's name.
            step: the step's name.
            extra: what the project is installed with.
            gpu: whether it needs a node that can train.
            sidecars: containers beside it.
            arguments: arguments of the step's function.

        Raises:
            TypeError: the step's function does not take one of `arguments`.
        """
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
            command = ["sh", "-c", INSTALL, f"{CODE}{extra}"]
            environment |= PIP_ENVIRONMENT
        if storage and self.target is Target.ONEPANEL:
            mounts.append(m.VolumeMount(name=ONEPANEL_VOLUME, mount_path=ONEPANEL_CONFIG, read_only=True))
        if storage and self.target is Target.ARGO:
            environment |= self._storage_environment()
        if gpu and self.target is Target.ARGO:
            # PyTorch's data-loader workers share tensors there; Onepanel's core mounts its own.
            mounts.append(m.VolumeMount(name="dshm", mount_path="/dev/shm"))  # noqa: S108
        return Container(
            name=name,
            image=self._image(gpu=gpu),
            command=command,
            args=args,
            env=[Env(name=key, value=value) for key, value in environment.items()],
            env_from=[SecretEnvFrom(name=self.options.secret, optional=True)]
            # Who we are on a CVAT server stands there too.
            if (storage or "to" in takes) and self.target is Target.ARGO and self.options.secret
            else None,
            inputs=None
            if self.options.image
            else [GitArtifact(name="src", path=CODE, repo=p.SOURCE.reference, revision=p.REVISION.reference, depth=1)],
            volume_mounts=mounts,
            retry_strategy=self._retries(resumes=gpu),
            node_selector=self._node_selector() if gpu else None,
            resources=Resources(gpus=self.options.gpus)
            if gpu and self.options.gpus and self.target is Target.ARGO
            else None,
            tolerations=[m.Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")]
            if gpu and self.options.gpus and self.target is Target.ARGO
            else None,
            sidecars=list(sidecars) or None,
        )

    def gpu_step(self, name: str, step: str, *, extra: str = "", **more: Any) -> Container:
        """Make a container template for a node that can train; `extra` is what it is installed with besides."""
        return self.step(name, step, extra=f"[train,hf{extra}]", gpu=True, **more)

    def _image(self, *, gpu: bool) -> str:
        return p.PYTORCH_IMAGE.reference if gpu or self.options.image else self.options.base_image

    def tensorboard(self) -> UserContainer:
        """Make the side-car that shows the training curves while the training runs."""
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
            image=self._image(gpu=False),
            command=["env"] if self.options.image else ["sh", "-c", INSTALL_OR_EXIT, "tensorboard"],
            args=show,
            env=[
                Env(name=key, value=value)
                for key, value in {"ONEPANEL_INTERACTIVE_SIDECAR": "true", **PIP_ENVIRONMENT}.items()
            ],
            ports=[m.ContainerPort(name="tensorboard", container_port=TENSORBOARD_PORT)],
            # Core has Argo mirror the main container's mounts into the side-car, and a path can be mounted once.
            volume_mounts=None
            if self.target is Target.ONEPANEL
            else [m.VolumeMount(name="output", mount_path=OUTPUT, read_only=True)],
        )

    def claim(self, name: str) -> m.PersistentVolumeClaim:
        """Make the claim of a volume that lives as long as the workflow."""
        return m.PersistentVolumeClaim(
            metadata=m.ObjectMeta(name=name),
            spec=m.PersistentVolumeClaimSpec(
                access_modes=["ReadWriteOnce"],
                resources=m.VolumeResourceRequirements(requests={"storage": m.Quantity(root=self.options.volume_size)}),
                storage_class_name=self.options.storage_class or None,
            ),
        )

    def volumes(self) -> list[m.Volume]:
        """Make the volumes that need no claim."""
        if self.target is Target.ONEPANEL:
            sources = [
                m.VolumeProjection(secret=m.SecretProjection(name="onepanel")),
                m.VolumeProjection(config_map=m.ConfigMapProjection(name="onepanel")),
            ]
            return [m.Volume(name=ONEPANEL_VOLUME, projected=m.ProjectedVolumeSource(sources=sources))]
        return [m.Volume(name="dshm", empty_dir=m.EmptyDirVolumeSource(medium="Memory"))]

    def _storage_environment(self) -> dict[str, str]:
        given = {
            "AWS_ENDPOINT_URL_S3": self.options.endpoint,
            "AWS_REGION": self.options.region,
            BUCKET_VARIABLE: self.options.bucket,
        }
        return {key: value for key, value in given.items() if value}

    def _retries(self, *, resumes: bool) -> RetryStrategy:
        if self.target is Target.ARGO:
            # Bad input stays bad; everything else, a lost node above all, deserves another try.
            return RetryStrategy(
                limit="2", retry_policy="Always", expression=f"asInt(lastRetry.exitCode) != {EXIT_USER_ERROR}"
            )
        # Argo v2.12 knows no expression: where a retry starts from nothing, only lost pods are tried again.
        return RetryStrategy(limit="2", retry_policy="Always" if resumes else "OnError")

    def _node_selector(self) -> dict[str, str] | None:
        if self.target is Target.ONEPANEL or self.options.node_pool:
            return {self.options.node_selector: p.SYS_NODE_POOL.reference}
        return None
