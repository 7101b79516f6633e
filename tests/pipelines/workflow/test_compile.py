"""The committed manifests are the compiled ones, and are the same each time."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import MANIFESTS, app
from pipelines.manifest.lint import lint
from pipelines.workflow.compile import manifests
from pipelines.workflow.options import Options, chosen_options
from tests.pipelines.command import pipelines

PROJECT = Path(__file__).parents[3]


def test_the_committed_manifests_are_up_to_date() -> None:
    committed = {path.relative_to(MANIFESTS): path.read_text(encoding="utf-8") for path in MANIFESTS.glob("*/*")}
    assert committed == manifests(chosen_options(MANIFESTS)), "run `make compile` and commit what it writes"


def test_compiling_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    seen = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-m", "pipelines", "compile", "--output", str(folder)]
        subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)
        seen.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4


def test_all_forms_are_labelled_for_cvat() -> None:
    made = {
        path.name: text
        for path, text in manifests(Options()).items()
        if path.name != "rbac.yaml" and path.parts[0] == "argo"
    }
    for text in made.values():
        document = yaml.safe_load(text)
        assert document["metadata"]["labels"] == {"used-by": "cvat"}
        assert document["spec"]["podMetadata"]["labels"] == {"used-by": "cvat"}
    onepanel = next(text for path, text in manifests(Options()).items() if path.parts[0] == "onepanel")
    assert "used-by: cvat" in onepanel.partition("arguments:")[0]


ARGO = Path("argo/detr-training.workflow.yaml")
ONEPANEL = Path("onepanel/detr-training.yaml")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--name", "cells"], "generateName: cells-"),
        (["--namespace", "team"], "namespace: team"),
        (["--image", "registry/detr:1"], "value: registry/detr:1"),
        (["--image", "registry/detr:1", "--steps-image", "registry/steps:1"], "image: registry/steps:1"),
        (["--repo", "https://git.example.com/detr"], "value: https://git.example.com/detr"),
        (["--revision", "v2"], "value: v2"),
        (["--base-image", "python:3.13-slim"], "image: python:3.13-slim"),
        (["--train-image", "torch:1"], "value: torch:1"),
        (["--git-secret", "token"], "usernameSecret:\n            key: username\n            name: token"),
        (["--git-secret", "key", "--repo", "git@example.com:a/b.git"], "sshPrivateKeySecret:\n            key: ssh-p"),
        (["--image-pull-secrets", "[registry]"], "imagePullSecrets:\n  - name: registry"),
        (["--env", "{HTTPS_PROXY: http://proxy:3128}"], "name: HTTPS_PROXY\n        value: http://proxy:3128"),
        (["--gpus", "2"], "nvidia.com/gpu: '2'"),
        (["--volume-size", "7Gi"], "storage: 7Gi"),
        (["--storage-class", "fast"], "storageClassName: fast"),
        (["--endpoint", "http://minio:9000"], "value: http://minio:9000"),
        (["--bucket", "cells"], "value: cells"),
        (["--region", "eu-west-1"], "value: eu-west-1"),
        (["--secret", "mine"], "name: mine"),
        (["--annotate"], "name: cvat-annotate"),
        (["--service-account", "argo"], "serviceAccountName: argo"),
        (["--node-pool", "p3"], "node.kubernetes.io/instance-type: '{{workflow.parameters.sys-node-pool}}'"),
        (["--node-pool", "p3", "--node-selector", "pool"], "pool: '{{workflow.parameters.sys-node-pool}}'"),
        (["--node-labels", "{topology.kubernetes.io/zone: a}"], "topology.kubernetes.io/zone: a"),
        (["--tolerations", "[{key: spot, operator: Exists}]"], "key: spot\n      operator: Exists"),
        (["--priority-class", "low"], "podPriorityClassName: low"),
        (["--resources", "{prepare-data: {limits: {memory: 17Gi}}}"], "memory: 17Gi"),
        (["--user", "4242"], "runAsUser: 4242"),
        (["--retries", "5"], "asInt(retries) < 5"),
        (["--interruptions", "7"], "limit: '7'"),
        (["--deadlines", "{train-detr: 30d}"], "activeDeadlineSeconds: '2592000'"),
        (["--keep-succeeded", "1h"], "secondsAfterSuccess: 3600"),
        (["--keep-failed", "2h"], "secondsAfterFailure: 7200"),
        (["--pod-gc", "OnPodSuccess"], "strategy: OnPodSuccess"),
    ],
)
def test_an_option_shows_in_the_workflow(tmp_path: Path, flags: list[str], expected: str) -> None:
    assert CliRunner().invoke(app, ["compile", "--output", str(tmp_path), *flags]).exit_code == 0
    (workflow,) = tmp_path.glob("argo/*.workflow.yaml")
    text = " ".join(workflow.read_text().split()) if "\n" not in expected else workflow.read_text()
    assert expected in text
    assert expected not in manifests(Options())[ARGO]
    # What was chosen stays chosen.
    before = workflow.read_text()
    assert CliRunner().invoke(app, ["compile", "--output", str(tmp_path)]).exit_code == 0
    assert workflow.read_text() == before
    assert [each for path in tmp_path.glob("*/*.yaml") for each in lint(path)] == []


def test_every_option_has_a_test() -> None:
    (mark,) = (each for each in test_an_option_shows_in_the_workflow.pytestmark)  # type: ignore[attr-defined]
    tested = {flag for flags, _ in mark.args[1] for flag in flags if flag.startswith("--")}
    names = {f"--{each.name.replace('_', '-')}" for each in dataclasses.fields(Options)}
    assert names - tested == {
        "--restricted",  # Beside it in test_options.py:
        "--artifacts",
        "--nodes",
        "--queue",
        "--reuse-data",
        "--schedule",
        "--schedule-dump",
        "--timezone",
    }


def test_what_was_chosen_before_is_kept_when_more_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "compile.yaml").write_text(
        "volume-size: 9Gi\nresources:\n  train-detr:\n    limits:\n      memory: 64Gi\n      ephemeral-storage: null\n"
    )
    flags = ["--resources", "{train-detr: {requests: {cpu: 7}}}", "--no-restricted"]
    assert CliRunner().invoke(app, ["compile", "--output", str(tmp_path), *flags]).exit_code == 0
    spec = yaml.safe_load((tmp_path / ARGO).read_text())["spec"]
    (train,) = (each for each in spec["templates"] if each["name"] == "train-detr")
    resources = train["container"]["resources"]
    assert resources["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "1"}
    assert resources["requests"] == {
        "cpu": "7", "memory": "4Gi", "ephemeral-storage": "4Gi", "nvidia.com/gpu": "1"
    }  # fmt: skip
    assert spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "9Gi"
    assert "securityContext" not in spec
    assert yaml.safe_load((tmp_path / "compile.yaml").read_text())["volume-size"] == "9Gi"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--name", "../../x"], "the setting 'name' is '../../x'"),
        (["--name", ""], "the setting 'name' is ''"),
        (["--namespace", "Bad_Name"], "the setting 'namespace' is 'Bad_Name'"),
        (["--secret", "Bad_Name"], "the setting 'secret' is 'Bad_Name'"),
        (["--volume-size", "banana"], "the setting 'volume-size' is 'banana': expected a quantity"),
        (["--volume-size", "-5Gi"], "the setting 'volume-size' is '-5Gi'"),
        (["--gpus", "-2"], "the setting 'gpus' is -2"),
        (["--gpus", "two"], "'--gpus'"),
        (["--image", "a b"], "the setting 'image' is 'a b'"),
        (["--user", "0"], "the setting 'user' is 0"),
        (["--deadlines", "{train-detr: soon}"], "the setting 'deadlines.train-detr' is 'soon': expected a duration"),
        (["--deadlines", "{train: 1d}"], "there is no 'train': did you mean 'train-detr'?"),
        (["--resources", "{train-detr: {limits: {memory: much}}}"], "limits.memory' is 'much'"),
        (["--resources", "{train-detr: {limits: {gpu: 1}}}"], "limits.gpu"),
        (["--resources", "7"], "the setting 'resources' is 7"),
        (["--tolerations", "[{key: a, operators: Exists}]"], "operators"),
        (["--tolerations", "[["], "--tolerations is not YAML"),
        (["--env", "{A B: c}"], "the setting 'env' is"),
        (["--env", "{A: 7}"], "the setting 'env.A' is 7"),
        (["--node-selector", "node pool"], "the setting 'node-selector' is 'node pool'"),
        (["--pod-gc", "Never"], "the setting 'pod-gc' is 'Never'"),
        (["--keep-failed", "3 days"], "the setting 'keep-failed' is '3 days'"),
    ],
)
def test_a_value_that_cannot_be_is_one_line_and_nothing_is_written(tmp_path: Path, flags: list[str], said: str) -> None:
    assert said in pipelines("compile", "--output", tmp_path / "mine", *flags).refusal
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("volume-sise: 5Gi", "there is no setting 'volume-sise': did you mean 'volume-size'?"),
        ("- a", "must be a mapping"),
        ("a: [", "is not readable YAML"),
        ("gpus: many", "the setting 'gpus' is 'many'"),
    ],
)
def test_a_file_of_settings_that_cannot_be_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "compile.yaml").write_text(text)
    refusal = pipelines("compile", "--output", tmp_path).refusal
    assert said in refusal
    assert "compile.yaml" in refusal


def test_a_ready_image_needs_neither_bootstrap_nor_git() -> None:
    text = manifests(Options(image="registry/detr:1"))[Path("argo/detr-training.workflow.yaml")]
    for template in yaml.safe_load(text)["spec"]["templates"]:
        assert "inputs" not in template
        assert template.get("container", {"command": ["env"]})["command"] == ["env"]


def test_a_cluster_without_gpus_is_asked_for_none() -> None:
    text = manifests(Options(gpus=0))[Path("argo/detr-training.workflow.yaml")]
    assert "nvidia.com/gpu" not in text


def test_no_step_clones_less_than_all() -> None:
    """With a depth, Argo finds no commit but a branch's last."""
    assert "depth:" not in "".join(manifests(Options()).values())


def test_failed_workflows_keep_their_volumes_for_argo_retry_and_not_for_ever() -> None:
    spec = yaml.safe_load(manifests(Options())[ARGO])["spec"]
    assert spec["volumeClaimGC"] == {"strategy": "OnWorkflowSuccess"}
    assert spec["ttlStrategy"]["secondsAfterFailure"] > 0
    onepanel = yaml.safe_load(manifests(Options())[ONEPANEL])
    assert onepanel["volumeClaimGC"] == {"strategy": "OnWorkflowCompletion"}


def test_the_service_account_is_argos() -> None:
    text = manifests(Options(service_account="detr"))[Path("onepanel/detr-training.yaml")]
    assert "serviceAccountName" not in text, "Onepanel's namespaces have no such account, and no pod would start"


def test_rbac_is_for_the_service_account_of_the_pods() -> None:
    text = manifests(Options(service_account="detr", namespace="team"))[Path("argo/rbac.yaml")]
    items = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load(text)["items"]}
    assert {each["metadata"]["namespace"] for each in items.values()} == {"team"}
    assert ("ServiceAccount", "detr") in items
    binding = items["RoleBinding", "detr-training-pods"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "detr", "namespace": "team"}]
    (rule,) = items[binding["roleRef"]["kind"], binding["roleRef"]["name"]]["rules"]
    assert rule == {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
