"""The containers of the steps, and the volumes that they mount, for each consumer."""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hera.workflows import (
    Artifact,
    Container,
    Env,
    GitArtifact,
    Parameter,
    Resource,
    RetryStrategy,
    SecretEnvFrom,
    UserContainer,
)
from hera.workflows import models as m

from pipelines.workflow import parameters as p
from pipelines.workflow.across_nodes import across_nodes
from pipelines.workflow.contract import (
    CODE,
    LOCKS,
    ONEPANEL_CONFIG,
    ONEPANEL_VOLUME,
    OUTPUT,
    PACKAGES,
    SCRATCH,
    STEPS_COMMAND,
    TENSORBOARD_PACKAGES,
    TENSORBOARD_PORT,
    VOLUMES,
)
from pipelines.workflow.options import TENSORBOARD, Options, Target
from pipelines.workflow.shell import ONEPANEL_RUN, install_and_run, install_and_run_beside
from pipelines.workflow.values import seconds
from steps.cli import STEPS, takes_storage
from steps.common.errors import EXIT_TEMPORARY, EXIT_USER_ERROR
from steps.storage.config import BUCKET_VARIABLE

GPU = "nvidia.com/gpu"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a path in a pod
ARGOS_OWN = {"initContainers": ("init",), "containers": ("wait",)}
"""Containers that Argo adds to each pod."""


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
        trains: bool = False,
        gpus: int | None = None,
        sidecars: Sequence[UserContainer] = (),
        outputs: Sequence[Parameter | Artifact] = (),
        **arguments: p.Parameter | str,
    ) -> Container:
        """Make a container template that runs `python -m steps STEP`.

        Args:
            name: the template's name.
            step: the step's name.
            trains: whether it needs a node, and packages, that can train.
            gpus: how many GPUs it needs there; None for one, where there are any.
            sidecars: containers beside it.
            outputs: what Argo keeps of it.
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
        gpus = min(1, self.options.gpus) if gpus is None else gpus
        storage = takes_storage(step)
        mounts = [m.VolumeMount(name=volume, mount_path=path) for volume, path in VOLUMES.items() if path in args]
        environment = self._environment(PACKAGES)
        if storage and self.target is Target.ONEPANEL:
            mounts.append(m.VolumeMount(name=ONEPANEL_VOLUME, mount_path=ONEPANEL_CONFIG, read_only=True))
        if storage and self.target is Target.ARGO:
            environment |= self._storage_environment()
        if self.target is Target.ARGO:
            mounts.append(m.VolumeMount(name="tmp", mount_path=SCRATCH))
            if trains:
                # PyTorch's data-loader workers share tensors there; Onepanel's core mounts its own.
                mounts.append(m.VolumeMount(name="dshm", mount_path=SHARED_MEMORY))
        return Container(
            name=name,
            image=self._image(trains=trains),
            command=self._command(name, trains=trains),
            args=args,
            env=_variables(environment),
            env_from=[SecretEnvFrom(name=self.options.secret, optional=True)]
            # Who we are on a CVAT server stands there too.
            if (storage or "to" in takes) and self.target is Target.ARGO and self.options.secret
            else None,
            inputs=None if self.options.image else [self._source()],
            outputs=list(outputs) or None,
            volume_mounts=mounts,
            resources=self._resources(name, trains=trains, gpus=gpus),
            security_context=self._security_context(),
            active_deadline_seconds=self._deadline(name),
            retry_strategy=self._retries(trains=trains),
            node_selector=self._node_selector(trains=trains),
            tolerations=self._tolerations(gpu=trains and bool(self.options.gpus)),
            sidecars=list(sidecars) or None,
        )

    def across_nodes(self, train: Container, labels: dict[str, str]) -> Resource:
        """Make the template that runs a training step on as many nodes as are chosen."""
        context = self.pod_security_context()
        pod = {
            "securityContext": context.model_dump(mode="json", by_alias=True, exclude_none=True) if context else None,
            "serviceAccountName": self.options.service_account,
            "priorityClassName": self.options.priority_class,
            "imagePullSecrets": [{"name": name} for name in self.options.image_pull_secrets],
        }
        return across_nodes(
            train,
            self.options.nodes,
            self.options.interruptions,
            self.options.queue,
            labels,
            {key: value for key, value in pod.items() if value},
        )

    def training_step(self, name: str, step: str, **more: Any) -> Container:
        """Make a container template for a node that can train."""
        return self.step(name, step, trains=True, **more)

    def tensorboard(self) -> UserContainer:
        """Make the side-car that shows the training curves while the training runs."""
        show = ["python", "-m", "tensorboard.main", "--logdir", f"{OUTPUT}/tensorboard"]
        show += ["--bind_all", "--port", str(TENSORBOARD_PORT)]
        command = ["env"]
        if not self.options.image:
            script = install_and_run_beside(TENSORBOARD_PACKAGES)
            command = ["sh", "-c", script, f"{LOCKS}/tensorboard.txt"]
        return UserContainer(
            name="tensorboard",
            image=self._image(trains=bool(self.options.image)),
            command=command,
            args=show,
            env=_variables({"ONEPANEL_INTERACTIVE_SIDECAR": "true", **self._environment(TENSORBOARD_PACKAGES)}),
            ports=[m.ContainerPort(name="tensorboard", container_port=TENSORBOARD_PORT)],
            resources=self._resources(TENSORBOARD),
            security_context=self._security_context(),
            # The output to show, and the source with the names of its packages. Onepanel's core sets this anyway.
            mirror_volume_mounts=True,
        )

    def claim(self, name: str) -> m.PersistentVolumeClaim:
        """Make the claim of a volume that lives as long as the workflow."""
        return m.PersistentVolumeClaim(
            metadata=m.ObjectMeta(name=name),
            spec=m.PersistentVolumeClaimSpec(
                access_modes=["ReadWriteMany" if self.options.nodes > 1 else "ReadWriteOnce"],
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
        return [
            m.Volume(name="tmp", empty_dir=m.EmptyDirVolumeSource()),
            m.Volume(name="dshm", empty_dir=m.EmptyDirVolumeSource(medium="Memory")),
        ]

    def pod_security_context(self) -> m.PodSecurityContext | None:
        """Make what Pod Security "restricted" asks of a pod, and lets that user write the volumes."""
        if not self._restricts():
            return None
        user = self.options.user
        return m.PodSecurityContext(
            run_as_non_root=True,
            run_as_user=user,
            run_as_group=user,
            fs_group=user,
            # Else Kubernetes walks through a full volume in every pod.
            fs_group_change_policy="OnRootMismatch",
            seccomp_profile=m.SeccompProfile(type="RuntimeDefault"),
        )

    def pod_spec_patch(self) -> str | None:
        """Make the same for the containers that Argo adds: its controller leaves them without, unless configured."""
        if not self._restricts():
            return None
        context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        patch = {kind: [{"name": n, "securityContext": context} for n in names] for kind, names in ARGOS_OWN.items()}
        return json.dumps(patch)

    def _restricts(self) -> bool:
        # Argo v2.12's own containers need the node's Docker socket, and core a port of the node: never "restricted".
        return self.options.restricted and self.target is Target.ARGO

    def _security_context(self) -> m.SecurityContext | None:
        if not self._restricts():
            return None
        return m.SecurityContext(
            allow_privilege_escalation=False,
            capabilities=m.Capabilities(drop=["ALL"]),
            read_only_root_filesystem=True,
        )

    def _deadline(self, name: str) -> str | None:
        limit = seconds(self.options.deadlines.get(name, ""))
        return str(limit) if limit else None

    def _command(self, name: str, *, trains: bool) -> list[str]:
        """Return what the container runs with its arguments, which no shell reads as code."""
        command = []
        if not self.options.image:
            lock = "train" if trains else "steps"
            command = ["sh", "-c", install_and_run(PACKAGES), f"{LOCKS}/{lock}.txt"]
        if self.target is Target.ONEPANEL:
            refused = f"{OUTPUT}/.refused-{name}" if self._always_retried(trains=trains) else ""
            return ["sh", "-c", ONEPANEL_RUN, refused, *command]
        # `env` runs the arguments as they are, whatever the image's entry point.
        return command or ["env"]

    def _environment(self, packages: str) -> dict[str, str]:
        environment = {"PYTHONUNBUFFERED": "1", "HOME": SCRATCH, **self.options.env}
        if not self.options.image:
            environment["PYTHONPATH"] = f"{CODE}:{packages}"
        return environment

    def _source(self) -> GitArtifact:
        def key(name: str) -> m.SecretKeySelector:
            return m.SecretKeySelector(name=self.options.git_secret, key=name)

        credentials: dict[str, Any] = {}
        if self.options.git_secret and "://" in self.options.repo and not self.options.repo.startswith("ssh://"):
            credentials = {"username_secret": key("username"), "password_secret": key("password")}
        elif self.options.git_secret:
            credentials = {"ssh_private_key_secret": key("ssh-privatekey")}
        # All of it: with a depth, Argo finds no commit but the branches' last ones.
        return GitArtifact(name="src", path=CODE, repo=p.SOURCE.reference, revision=p.REVISION.reference, **credentials)

    def _image(self, *, trains: bool) -> str:
        if trains:
            return p.PYTORCH_IMAGE.reference
        if self.options.image:
            return self.options.steps_image or p.PYTORCH_IMAGE.reference
        return self.options.base_image

    def _resources(self, name: str, *, trains: bool = False, gpus: int = 0) -> m.ResourceRequirements | None:
        if self.target is Target.ONEPANEL and trains:
            return None  # Core sets those of the node pool.
        chosen = self.options.resources.get(name, {})
        amounts: dict[str, dict[str, str]] = {
            kind: {resource: amount for resource, amount in (chosen.get(kind) or {}).items() if amount}
            for kind in ("requests", "limits")
        }
        if trains and gpus:
            for each in amounts.values():
                each[GPU] = str(gpus)
        if not any(amounts.values()):
            return None
        return m.ResourceRequirements.model_validate({kind: each for kind, each in amounts.items() if each})

    def _storage_environment(self) -> dict[str, str]:
        given = {
            "AWS_ENDPOINT_URL_S3": self.options.endpoint,
            "AWS_REGION": self.options.region,
            BUCKET_VARIABLE: self.options.bucket,
        }
        return {key: value for key, value in given.items() if value}

    def _always_retried(self, *, trains: bool) -> bool:
        """Tell whether Onepanel tries again whatever happened: a preempted pod has failed like any other."""
        return self.target is Target.ONEPANEL and trains

    def _retries(self, *, trains: bool) -> RetryStrategy:
        options = self.options
        if self._always_retried(trains=trains):
            # No factor: Argo v2.12 cannot cap it, and the tenth pause would be hours.
            backoff = m.Backoff(duration="20s")
            return RetryStrategy(limit=str(options.interruptions), retry_policy="Always", backoff=backoff)
        if self.target is Target.ONEPANEL:
            # Lost pods; the shell in the pod does the rest.
            backoff = m.Backoff(duration="10s", factor=m.IntOrString(root="2"))
            return RetryStrategy(limit=str(options.retries), retry_policy="OnError", backoff=backoff)
        return RetryStrategy(
            limit=str(max(options.interruptions, options.retries)),
            retry_policy="Always",
            backoff=m.Backoff(duration="10s", factor=m.IntOrString(root="2"), cap="5m"),
            expression=retry_expression(options.retries),
        )

    def _node_selector(self, *, trains: bool) -> dict[str, str] | None:
        pool = {self.options.node_selector: p.SYS_NODE_POOL.reference} if trains else {}
        if self.target is Target.ONEPANEL:
            return pool or None
        return {**self.options.node_labels, **(pool if self.options.node_pool else {})} or None

    def _tolerations(self, *, gpu: bool) -> list[m.Toleration] | None:
        tolerations: list[m.Toleration] = list(self.options.tolerations)
        if gpu and self.target is Target.ARGO:
            tolerations.append(m.Toleration(key=GPU, operator="Exists", effect="NoSchedule"))
        return tolerations or None


def retry_expression(retries: int) -> str:
    """Return when Argo tries again: never on what stays as it is; on a defect, `retries` times; on bad luck, always.

    What the user must mend and a step that takes too long stay as they are. A pod that was preempted, evicted or lost,
    and what the step itself says may pass, are bad luck. Argo counts all attempts together.
    """
    luck = f"lastRetry.status == 'Failed' && asInt(lastRetry.exitCode) in [-1, {EXIT_TEMPORARY}, 137, 143]"
    return (
        f"asInt(lastRetry.exitCode) != {EXIT_USER_ERROR} && !(lastRetry.message contains 'specified deadline') && "
        f"(asInt(retries) < {retries} || lastRetry.message contains 'pod deleted' || "
        f"({luck} && !(lastRetry.message contains 'OOMKilled')))"
    )


def _variables(environment: dict[str, str]) -> list[Any]:
    return [Env(name=key, value=value) for key, value in environment.items()]
