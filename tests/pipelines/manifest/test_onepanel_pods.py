"""The pods that core and Argo make of the template: held against real ones, and against Kubernetes' rules."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.manifest.onepanel_pods import Execution, PodError, argo_pods, as_core_makes_it, onepanel_pods
from pipelines.manifest.onepanel_rules import lint_onepanel
from pipelines.manifest.pod_rules import claim_faults, pod_faults
from pipelines.workflow.compile import manifests
from pipelines.workflow.options import Options

Document = dict[str, Any]
SHARED = Path(__file__).parents[4] / "shared" / "onepanel"
BOXES = ["fetch-dump", "prepare-data", "train-detr", "evaluate", "upload-artifacts"]


@cache
def default_text() -> str:
    return manifests(Options())[Path("onepanel/detr-training.yaml")]


def compiled(options: Options | None = None) -> Document:
    text = manifests(options)[Path(f"onepanel/{options.name}.yaml")] if options else default_text()
    spec: Document = yaml.safe_load(text)
    return spec


def template(spec: Document, name: str) -> Document:
    (found,) = (each for each in spec["templates"] if each["name"] == name)
    return found


def shared(name: str) -> Document:
    if not (SHARED / name).is_file():
        pytest.skip(f"what a real core and Argo made is not beside the project: {name}")
    document: Document = json.loads((SHARED / name).read_text())
    return document


@pytest.fixture
def mended() -> Document:
    """What core made of the first template, with both of its faults mended as for the real pods."""
    spec: Document = shared("workflow-as-core-makes-it.json")["spec"]
    spec["volumes"][0]["name"] = "settings"
    for each in spec["templates"]:
        for mount in each.get("container", {}).get("volumeMounts", []):
            mount["name"] = mount["name"].replace("onepanel", "settings")
    del template(spec, "train-detr")["sidecars"][0]["volumeMounts"]
    return spec


DEFAULTS = {"terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "resources", "defaultMode"}
TOKEN = "kube-api-access-"


def without_defaults(value: Any) -> Any:
    """Take away what the API server fills in, and the volume with the service account's token."""
    if isinstance(value, list):
        kept = [each for each in value if not (isinstance(each, dict) and each.get("name", "").startswith(TOKEN))]
        return [without_defaults(each) for each in kept]
    if isinstance(value, dict):
        known = {key: inner for key, inner in value.items() if key not in DEFAULTS and inner != "TCP"}
        return {key: without_defaults(inner) for key, inner in known.items()}
    return value


@pytest.mark.parametrize("task", ["fetch-dump", "train-detr"])
def test_the_pods_are_those_that_argo_made(task: str, mended: Document) -> None:
    real = shared(f"pod-{task}.json")
    parameters = {each["name"]: each["value"] for each in mended["arguments"]["parameters"]}
    args = real["spec"]["containers"][1]["args"]
    if "--hyperparameters" in args:
        parameters["hyperparameters"] = args[args.index("--hyperparameters") + 1]
    parameters["cvat-finetune-checkpoint"] = ""
    parameters["sys-node-pool"] = "Standard_D4s_v3"
    name = real["metadata"]["labels"]["workflows.argoproj.io/workflow"]
    made = argo_pods(mended, Execution(name=name, uid="detr-fix2", parameters=parameters))[task]
    fields = {"restartPolicy", "volumes", "initContainers", "containers", "nodeSelector"}
    assert without_defaults(made["spec"]) == without_defaults({f: v for f, v in real["spec"].items() if f in fields})
    assert made["metadata"]["name"] == real["metadata"]["name"]
    ours, theirs = made["metadata"]["labels"], real["metadata"]["labels"]
    drawn, differing = {key for key in ours if key.startswith("service-")}, {"onepanel.io/entity-uid"}
    assert len(drawn) == len(theirs.keys() - ours.keys()) == len(real["spec"]["containers"]) - 2
    assert {key: ours[key] for key in ours.keys() - drawn - differing} == {
        key: theirs[key] for key in ours.keys() - drawn - differing
    }


def test_core_adds_what_it_added(mended: Document) -> None:
    names = {"ONEPANEL_PROVIDER": "minikube", "ONEPANEL_DOMAIN": "lab.test", "ONEPANEL_FQDN": "app.lab.test"}
    installation = {**names, "ONEPANEL_API_URL": "https://app.lab.test/api"}
    made = as_core_makes_it(compiled(), Execution(installation=installation))
    assert made["artifactRepositoryRef"] == mended["artifactRepositoryRef"]
    assert made["podGC"] == mended["podGC"]
    assert made["volumes"][1:] == mended["volumes"][1:]
    for box in BOXES:
        ours, real = template(made, box), template(mended, box)
        added = [
            [each for each in one["container"]["env"] if each["name"].startswith("ONEPANEL_")] for one in (ours, real)
        ]
        assert added[0] == added[1], box
        for field in ("envFrom", "ports"):
            assert ours["container"].get(field) == real["container"].get(field), (box, field)
        assert [each["mountPath"] for each in ours["container"]["volumeMounts"]] == [
            each["mountPath"] for each in real["container"]["volumeMounts"]
        ]
        assert [{**each, "resources": {}} for each in ours["sidecars"] if each["name"] != "tensorboard"] == [
            each for each in real["sidecars"] if each["name"] != "tensorboard"
        ]
        assert all(each["mirrorVolumeMounts"] for each in [*ours["sidecars"], *real["sidecars"]])
        assert ours["outputs"]["artifacts"] == real["outputs"]["artifacts"]
        assert [each["archive"] for each in ours["inputs"]["artifacts"]] == [
            each["archive"] for each in real["inputs"]["artifacts"]
        ]
        assert ours["metadata"]["annotations"] == real["metadata"]["annotations"]
        for ours_, real_ in (
            (ours["metadata"]["labels"], real["metadata"]["labels"]),
            (
                {each["name"]: each["value"] for each in ours["outputs"]["parameters"]},
                {each["name"]: each["value"] for each in real["outputs"]["parameters"]},
            ),
        ):
            assert sorted((len(key), len(value)) for key, value in ours_.items()) == sorted(
                (len(key), len(value)) for key, value in real_.items()
            )


def test_the_shape_of_the_training_pod() -> None:
    """What the real pods show, in short, for where they are not beside the project."""
    spec = onepanel_pods(compiled())["train-detr"]["spec"]
    names = ["podmetadata", "docker-sock", "data", "output", "onepanel-config", "sys-dshm", "onepanel"]
    assert [each["name"] for each in spec["volumes"]] == [*names, "input-artifacts"]
    mounted = {
        each["name"]: [mount["mountPath"] for mount in each["volumeMounts"]]
        for each in [*spec["initContainers"], *spec["containers"]]
    }
    given = ["/mnt/data", "/mnt/output", "/etc/onepanel", "/dev/shm"]
    inside = [f"/mainctrfs{path}" for path in given]
    assert mounted == {
        "init": ["/argo/podmetadata", "/argo/secret/onepanel", "/argo/inputs/artifacts", *inside],
        "wait": [
            *["/argo/podmetadata", "/var/run/docker.sock", "/argo/secret/onepanel"],
            *[*inside, "/mainctrfs/mnt/src"],
        ],
        "main": [*given, "/mnt/src"],
        "tensorboard": [*given, "/mnt/src"],
        "sys-filesyncer": [*given, "/mnt/src"],
    }


@pytest.mark.parametrize(
    "option",
    [
        {},
        {"name": "cells"},
        {"namespace": "team"},
        {"image": "registry.example.com:5000/team/detr:1"},
        {"base_image": "python:3.13"},
        {"train_image": "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"},
        {"repo": "https://git.example.com/team/detr.git"},
        {"revision": ""},
        {"node_selector": "beta.kubernetes.io/instance-type"},
        {"gpus": 0},
        {"volume_size": "1.5Ti"},
        {"storage_class": "fast.ssd"},
        {"service_account": "argo"},
        {"image": "registry/detr:1", "gpus": 2, "node_selector": "pool", "storage_class": "fast", "name": "a"},
    ],
    ids=str,
)
def test_five_pods_without_a_fault(option: dict[str, Any]) -> None:
    spec = compiled(Options(**option))
    pods = onepanel_pods(spec)
    assert list(pods) == BOXES
    assert {name: [str(fault) for fault in pod_faults(pod)] for name, pod in pods.items()} == {
        name: [] for name in BOXES
    }
    assert lint_onepanel(spec) == []


def test_what_an_operator_changes_reaches_the_pods() -> None:
    changed = {"source": "https://git.example.com/fork", "revision": "v2", "pytorch-image": "mine:2"}
    pods = onepanel_pods(compiled(), Execution(parameters=changed))
    assert [pods[box]["spec"]["containers"][1]["image"] for box in BOXES] == [
        *["python:3.12-slim"] * 2, *["mine:2"] * 2, "python:3.12-slim",
    ]  # fmt: skip
    for box in BOXES:
        (artifact,) = template(compiled(), box)["inputs"]["artifacts"]
        assert artifact["git"]["repo"] == "{{workflow.parameters.source}}"
        assert artifact["git"]["revision"] == "{{workflow.parameters.revision}}"
    ready = onepanel_pods(compiled(Options(image="detr:1")), Execution(parameters={"pytorch-image": "detr:2"}))
    containers = [each for pod in ready.values() for each in pod["spec"]["containers"]]
    assert {each["image"] for each in containers if each["name"] in ("main", "tensorboard")} == {"detr:2"}


def call_the_volume_onepanel(spec: Document) -> None:
    spec["volumes"][0]["name"] = "onepanel"
    for each in spec["templates"]:
        for mount in each.get("container", {}).get("volumeMounts", []):
            mount["name"] = mount["name"].replace("onepanel-config", "onepanel")


def mount_the_output_in_tensorboard(spec: Document) -> None:
    mount = {"name": "output", "mountPath": "/mnt/output", "readOnly": True}
    template(spec, "train-detr")["sidecars"][0]["volumeMounts"] = [mount]


@pytest.mark.parametrize(
    ("break_it", "pods", "said", "remedy"),
    [
        (
            call_the_volume_onepanel,
            "'fetch-dump', 'train-detr', 'upload-artifacts'",
            'spec.volumes[5].name: Duplicate value: "onepanel"',
            "rename the template's own",
        ),
        (
            mount_the_output_in_tensorboard,
            "'train-detr'",
            'spec.containers[2].volumeMounts[2].mountPath: Invalid value: "/mnt/output": must be unique',
            "remove the side-car's own",
        ),
    ],
)
def test_each_of_the_faults_that_stopped_every_run_is_one_line(
    break_it: Callable[[Document], None], pods: str, said: str, remedy: str
) -> None:
    """What Kubernetes said to a real core's pods, word by word."""
    spec = compiled()
    break_it(spec)
    (problem,) = lint_onepanel(spec)
    assert all(words in problem for words in (f"pod of {pods}:", said, remedy))


def train(pod: Document) -> Document:
    container: Document = pod["spec"]["containers"][1]
    return container


FAULTS: list[tuple[str, Callable[[Document], object]]] = [
    ("metadata.name", lambda p: p["metadata"].update(name="Detr")),
    ("metadata.name", lambda p: p["metadata"].update(name="a" * 254)),
    ("metadata.labels", lambda p: p["metadata"]["labels"].update(key="v" * 64)),
    ("metadata.labels", lambda p: p["metadata"]["labels"].update(key="detr-training-")),
    ("metadata.labels", lambda p: p["metadata"]["labels"].update({"Team_/key": "v"})),
    ("metadata.annotations", lambda p: p["metadata"]["annotations"].update({"k" * 64: ""})),
    ("spec.nodeSelector", lambda p: p["spec"]["nodeSelector"].update(pool="a b")),
    ("spec.serviceAccountName", lambda p: p["spec"].update(serviceAccountName="Argo")),
    ("spec.volumes[8].name", lambda p: p["spec"]["volumes"].append({"name": "v" * 64})),
    ("spec.volumes[8].name", lambda p: p["spec"]["volumes"].append({"name": "data"})),
    ("spec.volumes[2].persistent", lambda p: p["spec"]["volumes"][2]["persistentVolumeClaim"].update(claimName="A")),
    ("spec.containers[1].name", lambda p: train(p).update(name="wait")),
    ("spec.containers[1].name", lambda p: train(p).update(name="init")),
    ("spec.containers[1].image", lambda p: train(p).update(image="")),
    ("spec.containers[1].image", lambda p: train(p).update(image="python ")),
    ("volumeMounts[0].name", lambda p: train(p)["volumeMounts"][0].update(name="dat")),
    ("volumeMounts[0].mountPath", lambda p: train(p)["volumeMounts"][0].update(mountPath="a:b")),
    ("volumeMounts[4].subPath", lambda p: train(p)["volumeMounts"][4].update(subPath="../src")),
    ("volumeMounts[1].mountPath", lambda p: train(p)["volumeMounts"][1].update(mountPath="/mnt/data")),
    ("env[0].name", lambda p: train(p)["env"][0].update(name="a b")),
    ("envFrom[0].secretRef", lambda p: train(p)["envFrom"][0]["secretRef"].update(name="S")),
    ("ports[0].name", lambda p: train(p)["ports"][0].update(name="a-port-of-16-char")),
    ("ports[0].containerPort", lambda p: train(p)["ports"][0].update(containerPort=65536)),
    ("ports[1].name", lambda p: train(p)["ports"].append({**train(p)["ports"][0], "hostPort": 81})),
    ("resources.requests[cpu]", lambda p: train(p).update(resources={"requests": {"cpu": "-1"}})),
    (
        "resources.requests[memory]",
        lambda p: train(p).update(resources={"requests": {"memory": "1Gi"}, "limits": {"memory": "1000M"}}),
    ),
    ("spec.priorityClassName", lambda p: p["spec"].update(priorityClassName="High!")),
    ("spec.imagePullSecrets[0].name", lambda p: p["spec"].update(imagePullSecrets=[{"name": "a b"}])),
    ("spec.tolerations[0].operator", lambda p: p["spec"].update(tolerations=[{"key": "spot", "operator": "Is"}])),
    ("spec.tolerations[0].operator", lambda p: p["spec"].update(tolerations=[{"value": "true"}])),
    ("spec.tolerations[0].effect", lambda p: p["spec"].update(tolerations=[{"key": "a", "effect": "Never"}])),
    (
        "spec.tolerations[0].value",
        lambda p: p["spec"].update(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
    ),
    ("ports[0].hostPort", lambda p: p["spec"]["containers"][2]["ports"][0].update(hostPort=80)),
]


@pytest.mark.parametrize(("field", "break_it"), FAULTS)
def test_what_kubernetes_refuses_is_noticed(field: str, break_it: Callable[[Document], object]) -> None:
    pod = onepanel_pods(compiled())["train-detr"]
    assert list(pod_faults(pod)) == []
    break_it(pod)
    assert any(field in fault.field for fault in pod_faults(pod)), [str(each) for each in pod_faults(pod)]


@pytest.mark.parametrize(("field", "value"), [("storage", "50 GB"), ("storageClassName", "Fast SSD")])
def test_a_claim_that_kubernetes_would_refuse_is_named_by_lint(field: str, value: str) -> None:
    spec = compiled()
    claim = spec["volumeClaimTemplates"][0]["spec"]
    (claim["resources"]["requests"] if field == "storage" else claim)[field] = value
    assert any(field in problem for problem in lint_onepanel(spec))


def test_what_argo_makes_no_pod_of_is_said() -> None:
    spec = compiled()
    template(spec, "train-detr")["container"]["volumeMounts"][0]["name"] = "dat"
    with pytest.raises(PodError, match=r"'train-detr' mounts the volume 'dat'"):
        onepanel_pods(spec)
    spec = compiled()
    spec["arguments"]["parameters"] = [each for each in spec["arguments"]["parameters"] if each["name"] != "source"]
    with pytest.raises(PodError, match=r"\{\{workflow\.parameters\.source\}\}"):
        onepanel_pods(spec)
    assert any("workflow.parameters.source" in problem for problem in lint_onepanel(spec))


def test_an_artifact_inside_a_volume_gets_no_mount_of_its_own() -> None:
    spec = compiled()
    template(spec, "train-detr")["inputs"]["artifacts"][0]["path"] = "/mnt/data/src"
    (main,) = (
        each for each in onepanel_pods(spec)["train-detr"]["spec"]["containers"] if each["name"] == "main"
    )  # fmt: skip
    assert "/mnt/data/src" not in [mount["mountPath"] for mount in main["volumeMounts"]]


def test_claims() -> None:
    (claim, _) = compiled()["volumeClaimTemplates"]
    assert list(claim_faults(claim)) == []
    claim["metadata"]["name"] = "Data"
    assert [fault.field for fault in claim_faults(claim)] == ["metadata.name"]
