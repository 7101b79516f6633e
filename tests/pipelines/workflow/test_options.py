"""What operators choose: where it lands in the manifests, what Kubernetes and Argo say to it, and what is refused."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.errors import PipelineError
from pipelines.manifest.argo_pods import pods_of_argo
from pipelines.manifest.argo_rules import lint_argo, lint_restricted
from pipelines.manifest.onepanel_rules import lint_onepanel
from pipelines.manifest.pod_security import restricted_faults
from pipelines.workflow.compile import manifests
from pipelines.workflow.options import Options

PROJECT = Path(__file__).parents[3]
Document = dict[str, Any]

COMBINATIONS: dict[str, Document] = {
    "defaults": {},
    "an image": {"image": "r.example.com/detr:1", "steps_image": "r.example.com/steps:1"},
    "private": {
        "repo": "https://git.example.com/x.git", "git_secret": "git", "image_pull_secrets": ["registry"],
        "priority_class": "low",
    },
    "private by SSH": {"repo": "git@git.example.com:x.git", "git_secret": "git"},
    "placed": {
        "node_pool": "gpu", "node_labels": {"zone": "a"}, "tolerations": [{"key": "spot", "operator": "Exists"}],
        "service_account": "detr", "namespace": "team",
    },
    "no limits, no end": {
        "resources": {"train-detr": {"limits": {"memory": None}}}, "deadlines": {"train-detr": ""},
        "keep_succeeded": "", "keep_failed": "", "pod_gc": "",
    },
    "no GPU": {"gpus": 0},
    "several GPUs": {"gpus": 4, "artifacts": True, "annotate": True},
    "nothing twice": {"reuse_data": True, "artifacts": True},
    "several nodes": {"gpus": 8, "nodes": 2, "image": "r.example.com/detr:1", "queue": "team"},
    "again at night": {"schedule": "0 3 * * *", "schedule_dump": "dumps/7/", "timezone": "Europe/Berlin"},
    "not restricted": {"restricted": False},
}  # fmt: skip


def compiled(**settings: Any) -> dict[str, Document]:
    """The manifests by their kind; Onepanel's has none."""
    made = [yaml.safe_load(text) for text in manifests(Options.create(settings)).values()]
    return {document.get("kind", "Onepanel"): document for document in made}


def template(name: str, **settings: Any) -> Document:
    return next(each for each in compiled(**settings)["Workflow"]["spec"]["templates"] if each["name"] == name)


@pytest.mark.parametrize("settings", COMBINATIONS.values(), ids=COMBINATIONS)
def test_every_combination_is_accepted(settings: Document) -> None:
    made = compiled(**settings)
    assert ("CronWorkflow" in made) == ("schedule" in settings)
    assert lint_onepanel(made.pop("Onepanel")) == []
    for document in made.values():
        assert lint_argo(document) == []
        if settings.get("restricted", True):
            assert lint_restricted(document) == []


@pytest.mark.parametrize("settings", COMBINATIONS.values(), ids=COMBINATIONS)
def test_argos_own_schema_accepts_every_combination(settings: Document) -> None:
    path = PROJECT.parent / "shared" / "argo" / "argo-v4.1.2.schema.json"
    if not path.is_file():
        pytest.skip("Argo's schema is not beside the project")
    schema = json.loads(path.read_text())
    schema["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["integer", "string"]}
    for kind, document in compiled(**settings).items():
        if kind not in ("Onepanel", "List"):
            reference = {"$ref": f"#/definitions/io.argoproj.workflow.v1alpha1.{kind}"}
            jsonschema.validate(document, {**reference, "definitions": schema["definitions"]})


def test_pods_that_are_not_restricted_would_be_kept_out() -> None:
    problems = lint_restricted(compiled(restricted=False)["Workflow"])
    for rule in ("runAsNonRoot", "allowPrivilegeEscalation", "capabilities", "seccompProfile"):
        assert any(rule in problem for problem in problems), rule


def test_pods_of_several_nodes_know_each_other() -> None:
    document = compiled(**COMBINATIONS["several nodes"])["Workflow"]
    pod = pods_of_argo(document)["train-detr"]["spec"]
    (main,) = pod["containers"]
    environment = {each["name"]: each.get("value") for each in main["env"]}
    assert environment["PET_NNODES"] == "2"
    assert environment["PET_MASTER_ADDR"] == "detr-training-x7k2p-train-node-0-0.detr-training-x7k2p-train"
    assert main["args"][main["args"].index("--processes") + 1] == "8"
    assert main["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert list(restricted_faults({"spec": pod})) == []
    assert {claim["spec"]["accessModes"][0] for claim in document["spec"]["volumeClaimTemplates"]} == {"ReadWriteMany"}
    resource = next(each for each in document["spec"]["templates"] if each["name"] == "train-detr")["resource"]
    assert {"kueue.x-k8s.io/queue-name: team", "kind: JobSet"} <= {
        line.strip() for line in resource["manifest"].splitlines()
    }


def test_values_of_several_lines_reach_the_pods_of_several_nodes() -> None:
    document = compiled(**COMBINATIONS["several nodes"])["Workflow"]
    nasty = "lr: 0.0002\naugment: 'none'  # \"x\": {y}"
    for parameter in document["spec"]["arguments"]["parameters"]:
        if parameter["name"] == "hyperparameters":
            parameter["value"] = nasty
    (main,) = pods_of_argo(document)["train-detr"]["spec"]["containers"]
    assert main["args"][main["args"].index("--hyperparameters") + 1] == nasty


@pytest.mark.parametrize(
    ("box", "settings", "field", "value"),
    [
        ("train-detr", {"deadlines": {"train-detr": "14d"}}, "activeDeadlineSeconds", str(14 * 86400)),
        ("fetch-dump", {"node_labels": {"zone": "a"}}, "nodeSelector", {"zone": "a"}),
        (
            "upload-artifacts",
            {"tolerations": [{"key": "spot", "operator": "Exists"}]},
            "tolerations",
            [{"key": "spot", "operator": "Exists"}],
        ),
    ],
)
def test_an_option_lands_in_its_field(box: str, settings: Document, field: str, value: object) -> None:
    assert template(box, **settings)[field] == value
    assert template(box).get(field) != value


def test_evaluation_takes_one_gpu_and_training_all() -> None:
    def gpus(box: str) -> str:
        return str(template(box, gpus=4)["container"]["resources"]["limits"]["nvidia.com/gpu"])

    assert (gpus("train-detr"), gpus("evaluate")) == ("4", "1")


def test_what_argo_shows() -> None:
    outputs = template("evaluate", artifacts=True)["outputs"]
    assert [each["name"] for each in outputs["parameters"]] == ["AP", "AP50"]
    assert [each["path"] for each in outputs["artifacts"]] == ["/mnt/output/report.html", "/mnt/output/metrics.json"]
    assert "artifacts" not in template("evaluate")["outputs"]
    upload = template("upload-artifacts", artifacts=True)
    (manifest,) = upload["outputs"]["artifacts"]
    assert manifest == {"name": "manifest", "path": "/tmp/manifest.json", "archive": {"none": {}}}
    args = upload["container"]["args"]
    assert args[args.index("--manifest-file") + 1] == manifest["path"]
    assert "outputs" not in template("upload-artifacts")


def test_data_that_are_remembered_are_not_prepared_again() -> None:
    (dag,) = (each["dag"] for each in compiled(reuse_data=True)["Workflow"]["spec"]["templates"] if "dag" in each)
    conditions = {each["name"]: each.get("when") for each in dag["tasks"]}
    unless = "{{tasks.fetch-dump.outputs.parameters.remembered}} != true"
    assert conditions == {
        "fetch-dump": None, "prepare-data": unless, "remember-data": unless, "train-detr": None, "evaluate": None,
        "upload-artifacts": None,
    }  # fmt: skip
    args = template("fetch-dump", reuse_data=True)["container"]["args"]
    settings = args[args.index("--memory-settings") + 1]
    for flag, value in itertools.pairwise(template("prepare-data", reuse_data=True)["container"]["args"][4:]):
        if value.startswith("{{"):
            assert f"{flag[2:].replace('-', '_')}={value}" in settings.split(" "), "all that the preparation is told"
    night = compiled(reuse_data=True, **COMBINATIONS["again at night"])
    assert "remember" not in str(night["CronWorkflow"])
    assert "remember" not in str(night["Onepanel"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"volume_size": "banana"}, "'volume-size' is 'banana': expected a quantity"),
        ({"gpus": -2}, "'gpus' is -2"),
        ({"name": "../../x"}, "'name' is '../../x'"),
        ({"name": "Bad_Name"}, "'name' is 'Bad_Name'"),
        ({"deadlines": {"train-detr": "soon"}}, "expected a duration"),
        ({"deadlines": {"trian-detr": "1h"}}, "did you mean 'train-detr'"),
        ({"volume_sise": "1Gi"}, "did you mean 'volume-size'"),
        ({"nodes": 2}, "'nodes' needs 'image'"),
        ({"schedule": "0 3 * * *"}, "'schedule' needs 'schedule-dump'"),
    ],
)
def test_what_is_not_possible_is_refused(settings: Document, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        Options.create(settings)


def test_what_was_chosen_is_kept(tmp_path: Path) -> None:
    def compile_(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines", "compile", "--output", str(tmp_path), *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)

    def size() -> str:
        document = yaml.safe_load((tmp_path / "argo" / "detr-training.workflow.yaml").read_text())
        return str(document["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"])

    compile_("--volume-size", "7Gi")
    assert size() == "7Gi"
    compile_("--gpus", "2")
    assert size() == "7Gi"
    refused = compile_("--volume-size", "banana")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert size() == "7Gi"
