"""Submitting, through both ways to a cluster, as a user would from the shell."""

import json
import socket
from pathlib import Path

import pytest
import yaml

from pipelines.cli import WORKFLOW
from tests.pipelines.cluster.double import CREATED, NAMESPACE, TOKEN, Double, cluster_double
from tests.pipelines.cluster.ways import DUMP, WAYS, environment, refused
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
        result = pipelines("submit", DUMP, *flags, env=env)
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
        result = pipelines("submit", "--from-template", "detr-training", DUMP, "--param", "epochs=7", env=env)
        assert result.returncode == 0, result.stderr
        unknown = refused(pipelines("submit", "--from-template", "detr-training", DUMP, "--param", "epoch=7", env=env))
        absent = refused(pipelines("submit", "--from-template", "no-such", DUMP, env=env))
    (sent,) = double.created()
    assert sent["spec"]["workflowTemplateRef"] == {"name": "detr-training"}
    assert sent["spec"]["arguments"]["parameters"] == [
        {"name": "cvat-annotation-path", "value": "annotation-dump/7/"},
        {"name": "epochs", "value": "7"},
    ]
    assert "templates" not in sent["spec"]
    assert "did you mean 'epochs'" in unknown
    assert "no workflow template 'no-such'" in absent


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("parameter", ["epoch=1", "epochs=abc", "epochs=0", "model=detr", "epochs"])
def test_a_wrong_parameter_is_refused_before_anything_is_sent(way: str, parameter: str, tmp_path: Path) -> None:
    with cluster_double() as double:
        line = refused(pipelines("submit", DUMP, "--param", parameter, env=environment(way, double, tmp_path)))
    assert parameter.partition("=")[0] in line
    assert double.asked == []


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_token_and_an_unknown_namespace_are_said(way: str, tmp_path: Path) -> None:
    with cluster_double() as double:
        wrong = environment(way, double, tmp_path, token=f"not-{TOKEN}")
        token = refused(pipelines("submit", DUMP, env=wrong))
        namespace = refused(pipelines("submit", DUMP, env=environment(way, double, tmp_path, namespace="elsewhere")))
    assert "does not accept the token" in token
    assert "(401)" in token
    assert "namespace 'elsewhere'" in namespace


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_away_is_said(way: str, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = Double(address=f"127.0.0.1:{unused.getsockname()[1]}")
        line = refused(pipelines("submit", DUMP, env=environment(way, away, tmp_path)))
    assert away.address in line
    assert "does not answer" in line


def test_without_any_configuration_both_are_named(tmp_path: Path) -> None:
    clean = environment("argo", Double(), tmp_path)
    clean = {key: value for key, value in clean.items() if not key.startswith("ARGO_")}
    line = refused(pipelines("submit", DUMP, env=clean))
    assert "ARGO_SERVER" in line
    assert "KUBECONFIG" in line
    assert "ARGO_SERVER is not set" in refused(pipelines("submit", "--via", "argo", env=clean))
    missing = {**clean, "KUBECONFIG": str(tmp_path / "none")}
    assert "which does not exist" in refused(pipelines("submit", DUMP, env=missing))


@pytest.mark.parametrize("way", WAYS)
def test_what_only_the_user_knows_is_demanded_before_anything_is_sent(way: str, tmp_path: Path) -> None:
    template = yaml.safe_load(WORKFLOW.with_name("detr-training.workflowtemplate.yaml").read_text())
    parameters = template["spec"]["arguments"]["parameters"]
    del next(each for each in parameters if each["name"] == "epochs")["value"]
    with cluster_double(template=template) as double:
        env = environment(way, double, tmp_path)
        dump = refused(pipelines("submit", env=env))
        assert double.asked == []
        epochs = refused(pipelines("submit", "--from-template", "detr-training", DUMP, env=env))
        given = pipelines("submit", "--from-template", "detr-training", DUMP, "--param", "epochs=3", env=env)
    assert "parameter 'cvat-annotation-path' is required: give --param cvat-annotation-path=" in dump
    assert "parameter 'epochs' is required" in epochs
    assert given.returncode == 0, given.stderr
    assert len(double.created()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_the_manifests_namespace_is_the_one_unless_another_is_named(way: str, tmp_path: Path) -> None:
    manifest = tmp_path / "own.yaml"
    compiled = yaml.safe_load(WORKFLOW.read_text())
    manifest.write_text(yaml.safe_dump({**compiled, "metadata": {**compiled["metadata"], "namespace": NAMESPACE}}))
    with cluster_double() as double:
        env = environment(way, double, tmp_path, namespace="elsewhere")
        own = pipelines("submit", DUMP, "--manifest", manifest, env=env)
        other = refused(pipelines("submit", DUMP, "--manifest", manifest, "--namespace", "third", env=env))
    assert own.returncode == 0, own.stderr
    assert double.created()[0]["metadata"]["namespace"] == NAMESPACE
    assert "namespace 'third'" in other


@pytest.mark.parametrize("way", WAYS)
def test_output_is_for_programs(way: str, tmp_path: Path) -> None:
    with cluster_double() as double:
        env = environment(way, double, tmp_path)
        name, as_json, as_yaml = (pipelines("submit", DUMP, "-o", each, env=env) for each in ("name", "json", "yaml"))
        wrong = refused(pipelines("submit", DUMP, "-o", "xml", env=env))
    assert name.stdout == f"{CREATED}\n"
    assert json.loads(as_json.stdout)["metadata"]["name"] == CREATED
    assert yaml.safe_load(as_yaml.stdout) == json.loads(as_json.stdout)
    assert "give name, json or yaml" in wrong
    assert len(double.created()) == 3


def test_a_dry_run_needs_no_cluster_and_prints_what_would_be_sent(tmp_path: Path) -> None:
    clean = {key: value for key, value in environment("argo", Double(), tmp_path).items() if "ARGO" not in key}
    clean["ARGO_INSTANCEID"] = "blue"
    done = pipelines("submit", DUMP, "--dry-run", "--namespace", NAMESPACE, "--param", "epochs=7", env=clean)
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)
    assert (printed["kind"], printed["metadata"]["namespace"]) == ("Workflow", NAMESPACE)
    assert printed["metadata"]["labels"]["workflows.argoproj.io/controller-instanceid"] == "blue"
    values = {each["name"]: each["value"] for each in printed["spec"]["arguments"]["parameters"]}
    assert (values["epochs"], values["cvat-annotation-path"]) == ("7", "annotation-dump/7/")
    assert "epochs" in refused(pipelines("submit", DUMP, "--dry-run", "--param", "epochs=x", env=clean))


def test_a_context_is_named_where_the_kubeconfig_has_no_current_one(tmp_path: Path) -> None:
    with cluster_double() as double:
        env = environment("kubernetes", double, tmp_path)
        path = Path(env["KUBECONFIG"])
        config = yaml.safe_load(path.read_text())
        del config["current-context"]
        path.write_text(yaml.safe_dump(config))
        without = refused(pipelines("submit", DUMP, env=env))
        named = pipelines("submit", DUMP, "--context", "here", env=env)
    assert "--context" in without
    assert named.returncode == 0, named.stderr
    assert f"in namespace {NAMESPACE}" in named.stdout


@pytest.mark.parametrize("way", WAYS)
def test_an_instance_id_becomes_the_label_by_which_its_controller_knows_its_workflows(way: str, tmp_path: Path) -> None:
    with cluster_double() as double:
        result = pipelines("submit", DUMP, env={**environment(way, double, tmp_path), "ARGO_INSTANCEID": "blue"})
    assert result.returncode == 0, result.stderr
    (sent,) = double.created()
    assert sent["metadata"]["labels"]["workflows.argoproj.io/controller-instanceid"] == "blue"
