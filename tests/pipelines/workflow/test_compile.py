"""The committed manifests are the compiled ones, and are the same each time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import MANIFESTS, app
from pipelines.workflow.compile import RBAC, manifests
from pipelines.workflow.options import Options

PROJECT = Path(__file__).parents[3]


def test_the_committed_manifests_are_up_to_date() -> None:
    committed = {
        path.relative_to(MANIFESTS): path.read_text(encoding="utf-8") for path in MANIFESTS.rglob("*") if path.is_file()
    }
    assert committed == manifests(Options()), "run `make compile` and commit what it writes"


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
    made = {path: text for path, text in manifests(Options()).items() if path.parts[0] == "argo" and path != RBAC}
    for text in made.values():
        document = yaml.safe_load(text)
        assert document["metadata"]["labels"] == {"used-by": "cvat"}
        assert document["spec"]["podMetadata"]["labels"] == {"used-by": "cvat"}
    onepanel = next(text for path, text in manifests(Options()).items() if path.parts[0] == "onepanel")
    assert "used-by: cvat" in onepanel.partition("arguments:")[0]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--name", "cells"], "generateName: cells-"),
        (["--namespace", "team"], "namespace: team"),
        (["--image", "registry/detr:1"], "value: registry/detr:1"),
        (["--repo", "https://git.example.com/detr"], "value: https://git.example.com/detr"),
        (["--revision", "v2"], "value: v2"),
        (["--train-image", "torch:1"], "value: torch:1"),
        (["--gpus", "2"], "nvidia.com/gpu: '2'"),
        (["--volume-size", "7Gi"], "storage: 7Gi"),
        (["--storage-class", "fast"], "storageClassName: fast"),
        (["--endpoint", "http://minio:9000"], "value: http://minio:9000"),
        (["--bucket", "cells"], "value: cells"),
        (["--secret", "mine"], "name: mine"),
        (["--annotate"], "{{workflow.parameters.cvat-annotate}}"),
        (["--service-account", "argo"], "serviceAccountName: argo"),
        (["--node-pool", "p3"], "node.kubernetes.io/instance-type: '{{workflow.parameters.sys-node-pool}}'"),
    ],
)
def test_an_option_shows_in_the_workflow(tmp_path: Path, flags: list[str], expected: str) -> None:
    assert CliRunner().invoke(app, ["compile", "--output", str(tmp_path), *flags]).exit_code == 0
    (workflow,) = tmp_path.glob("argo/*.workflow.yaml")
    text = workflow.read_text()
    assert expected in text
    assert expected not in manifests(Options())[Path("argo/detr-training.workflow.yaml")]


def test_a_ready_image_needs_neither_bootstrap_nor_git() -> None:
    text = manifests(Options(image="registry/detr:1"))[Path("argo/detr-training.workflow.yaml")]
    for template in yaml.safe_load(text)["spec"]["templates"]:
        assert "inputs" not in template
        assert template.get("container", {"command": ["env"]})["command"] == ["env"]


def test_a_cluster_without_gpus_is_asked_for_none() -> None:
    text = manifests(Options(gpus=0))[Path("argo/detr-training.workflow.yaml")]
    assert "nvidia.com/gpu" not in text
