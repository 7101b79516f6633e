"""Submitting, through both ways to a cluster, as a user would from the shell."""

import socket
from pathlib import Path

import pytest
import yaml

from pipelines.cli import WORKFLOW
from tests.pipelines.cluster.double import CREATED, NAMESPACE, TOKEN, Double, cluster_double
from tests.pipelines.cluster.ways import WAYS, environment, refused
from tests.pipelines.command import pipelines


@pytest.mark.parametrize("way", WAYS)
def test_the_compiled_workflow_is_created_with_its_parameters(way: str, tmp_path: Path) -> None:
    with cluster_double() as double:
        env = environment(way, double, tmp_path)
        given = {
            "epochs": "7",
            "hyperparameters": "lr: 0.1\nseed: 3",
            "source": "https://git.example.com/fork",
            "revision": "",
            "pytorch-image": "mine:2",
        }
        flags = [word for name, value in given.items() for word in ("--param", f"{name}={value}")]
        result = pipelines("submit", *flags, env=env)
    assert result.returncode == 0, result.stderr
    assert f"submitted {CREATED} in namespace {NAMESPACE}" in result.stdout
    (sent,) = double.created()
    compiled = yaml.safe_load(WORKFLOW.read_text())
    values = {each["name"]: each["value"] for each in sent["spec"]["arguments"]["parameters"]}
    assert given.items() <= values.items()
    assert sent["metadata"]["labels"] == {"used-by": "cvat"}
    for each in compiled["spec"]["arguments"]["parameters"]:
        each["value"] = values[each["name"]]
    assert sent["spec"] == compiled["spec"], "nothing is lost on the way"


@pytest.mark.parametrize("way", WAYS)
def test_an_installed_template_is_referred_to(way: str, tmp_path: Path) -> None:
    template = yaml.safe_load(WORKFLOW.with_name("detr-training.workflowtemplate.yaml").read_text())
    with cluster_double(template=template) as double:
        env = environment(way, double, tmp_path)
        result = pipelines("submit", "--from-template", "detr-training", "--param", "epochs=7", env=env)
        assert result.returncode == 0, result.stderr
        unknown = refused(pipelines("submit", "--from-template", "detr-training", "--param", "epoch=7", env=env))
        absent = refused(pipelines("submit", "--from-template", "no-such", env=env))
    (sent,) = double.created()
    assert sent["spec"]["workflowTemplateRef"] == {"name": "detr-training"}
    assert sent["spec"]["arguments"]["parameters"] == [{"name": "epochs", "value": "7"}]
    assert "templates" not in sent["spec"]
    assert "did you mean 'epochs'" in unknown
    assert "no workflow template 'no-such'" in absent


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("parameter", ["epoch=1", "epochs=abc", "epochs=0", "model=detr", "epochs"])
def test_a_wrong_parameter_is_refused_before_anything_is_sent(way: str, parameter: str, tmp_path: Path) -> None:
    with cluster_double() as double:
        line = refused(pipelines("submit", "--param", parameter, env=environment(way, double, tmp_path)))
    assert parameter.partition("=")[0] in line
    assert double.asked == []


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_token_and_an_unknown_namespace_are_said(way: str, tmp_path: Path) -> None:
    with cluster_double() as double:
        wrong = environment(way, double, tmp_path, token=f"not-{TOKEN}")
        token = refused(pipelines("submit", env=wrong))
        namespace = refused(pipelines("submit", env=environment(way, double, tmp_path, namespace="elsewhere")))
    assert "does not accept the token" in token
    assert "(401)" in token
    assert "namespace 'elsewhere'" in namespace


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_away_is_said(way: str, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = Double(address=f"127.0.0.1:{unused.getsockname()[1]}")
        line = refused(pipelines("submit", env=environment(way, away, tmp_path)))
    assert away.address in line
    assert "does not answer" in line


def test_without_any_configuration_both_are_named(tmp_path: Path) -> None:
    clean = environment("argo", Double(), tmp_path)
    clean = {key: value for key, value in clean.items() if not key.startswith("ARGO_")}
    line = refused(pipelines("submit", env=clean))
    assert "ARGO_SERVER" in line
    assert "KUBECONFIG" in line
    assert "ARGO_SERVER is not set" in refused(pipelines("submit", "--via", "argo", env=clean))
    missing = {**clean, "KUBECONFIG": str(tmp_path / "none")}
    assert "which does not exist" in refused(pipelines("submit", env=missing))
