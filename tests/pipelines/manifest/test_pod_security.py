"""Pod Security "restricted": Argo's pods keep each of its rules, and breaking one is noticed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from pipelines.cli import WORKFLOW
from pipelines.manifest.argo_pods import pods_of_argo
from pipelines.manifest.argo_rules import lint_restricted
from pipelines.manifest.pod_rules import pod_faults
from pipelines.manifest.pod_security import restricted_faults
from pipelines.workflow.dag import training_workflow
from pipelines.workflow.options import Options, Target

Document = dict[str, Any]
ARGO: Document = yaml.safe_load(WORKFLOW.read_text())


def main(pod: Document) -> Document:
    container: Document = pod["spec"]["containers"][1]
    assert container["name"] == "main"
    return container


def security(pod: Document) -> Document:
    context: Document = main(pod)["securityContext"]
    return context


BREAKS: list[tuple[str, Callable[[Document], object]]] = [
    ("hostNetwork", lambda p: p["spec"].update(hostNetwork=True)),
    ("hostPID", lambda p: p["spec"].update(hostPID=True)),
    ("hostIPC", lambda p: p["spec"].update(hostIPC=True)),
    (".hostPath", lambda p: p["spec"]["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    (".nfs", lambda p: p["spec"]["volumes"].append({"name": "x", "nfs": {"server": "a", "path": "/"}})),
    ("sysctls", lambda p: p["spec"]["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    ("runAsUser", lambda p: p["spec"]["securityContext"].update(runAsUser=0)),
    ("runAsUser", lambda p: security(p).update(runAsUser=0)),
    ("runAsNonRoot", lambda p: p["spec"]["securityContext"].pop("runAsNonRoot")),
    ("runAsNonRoot", lambda p: security(p).update(runAsNonRoot=False)),
    ("seccompProfile", lambda p: p["spec"]["securityContext"].pop("seccompProfile")),
    ("seccompProfile", lambda p: security(p).update(seccompProfile={"type": "Unconfined"})),
    ("privileged", lambda p: security(p).update(privileged=True)),
    ("allowPrivilegeEscalation", lambda p: security(p).pop("allowPrivilegeEscalation")),
    ("allowPrivilegeEscalation", lambda p: security(p).update(allowPrivilegeEscalation=True)),
    ("capabilities.drop", lambda p: security(p)["capabilities"].update(drop=["NET_RAW"])),
    ("capabilities.add", lambda p: security(p)["capabilities"].update(add=["SYS_ADMIN"])),
    ("procMount", lambda p: security(p).update(procMount="Unmasked")),
    ("hostPort", lambda p: main(p).update(ports=[{"containerPort": 80, "hostPort": 80}])),
    ("hostProcess", lambda p: security(p).update(windowsOptions={"hostProcess": True})),
    ("appArmorProfile", lambda p: security(p).update(appArmorProfile={"type": "Unconfined"})),
    ("seLinuxOptions", lambda p: security(p).update(seLinuxOptions={"type": "spc_t"})),
    ("initContainers[0].securityContext", lambda p: p["spec"]["initContainers"][0].pop("securityContext")),
]


@pytest.mark.parametrize(("field", "break_it"), BREAKS)
def test_breaking_a_rule_is_noticed(field: str, break_it: Callable[[Document], object]) -> None:
    pod = copy.deepcopy(pods_of_argo(ARGO)["train-detr"])
    assert list(restricted_faults(pod)) == []
    break_it(pod)
    assert any(field in fault.field for fault in restricted_faults(pod))


@pytest.mark.parametrize("options", [Options(), Options(image="detr:1", annotate=True, gpus=0)])
def test_every_pod_is_admitted_and_each_container_has_a_read_only_root(options: Options) -> None:
    document = training_workflow(Target.ARGO, options).to_dict()
    for pod in pods_of_argo(document).values():
        assert list(restricted_faults(pod)) == []
        assert list(pod_faults(pod)) == []
        containers = {each["name"]: each for each in pod["spec"]["containers"]}
        for name in containers.keys() - {"wait"}:
            assert containers[name]["securityContext"]["readOnlyRootFilesystem"] is True
            # And so needs a place for what is neither data nor output.
            assert "/tmp" in [mount["mountPath"] for mount in containers[name]["volumeMounts"]]
        assert pod["spec"]["securityContext"]["fsGroup"] == options.user


def test_all_containers_ask_for_what_a_quota_counts() -> None:
    for pod in pods_of_argo(ARGO).values():
        for container in pod["spec"]["containers"]:
            if container["name"] != "wait":
                assert container["resources"]["requests"].keys() >= {"cpu", "memory", "ephemeral-storage"}
                assert container["resources"]["limits"].keys() >= {"memory", "ephemeral-storage"}


def test_without_it_lint_says_what_is_missing() -> None:
    document = training_workflow(Target.ARGO, Options(restricted=False)).to_dict()
    assert any("runAsNonRoot" in problem for problem in lint_restricted(document))


def test_steps_that_share_a_volume_run_where_it_can_be_mounted() -> None:
    options = Options(node_labels={"topology.kubernetes.io/zone": "a"}, node_pool="p3")
    pods = pods_of_argo(training_workflow(Target.ARGO, options).to_dict())
    for pod in pods.values():
        assert pod["spec"]["nodeSelector"]["topology.kubernetes.io/zone"] == "a"
    assert pods["train-detr"]["spec"]["nodeSelector"]["node.kubernetes.io/instance-type"] == "p3"
