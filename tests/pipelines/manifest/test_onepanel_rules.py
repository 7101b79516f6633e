"""Each rule of Onepanel's: the compiled spec keeps it, and breaking it is noticed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from pipelines.cli import ONEPANEL_SPEC
from pipelines.manifest import onepanel_rules as rules

Spec = dict[str, Any]
ONEPANEL: Spec = yaml.safe_load(ONEPANEL_SPEC.read_text())


def template(spec: Spec, name: str) -> Spec:
    (found,) = (each for each in spec["templates"] if each["name"] == name)
    return found


def parameter(spec: Spec, name: str) -> Spec:
    (found,) = (each for each in spec["arguments"]["parameters"] if each["name"] == name)
    return found


def tasks(spec: Spec) -> list[Spec]:
    found: list[Spec] = template(spec, "main")["dag"]["tasks"]
    return found


def train(spec: Spec) -> Spec:
    return template(spec, "train-detr")


BREAKS: list[tuple[Callable[..., Any], str, Callable[[Spec], object]]] = [
    (rules.fields_of_argo_2_12, "podMetadata", lambda s: s.update(podMetadata={"labels": {}})),
    (rules.fields_of_argo_2_12, "hooks", lambda s: s.update(hooks={})),
    (rules.fields_of_argo_2_12, "expression", lambda s: train(s)["retryStrategy"].update(expression="true")),
    (rules.fields_of_argo_2_12, "plugin", lambda s: train(s).update(plugin={})),
    (rules.fields_of_argo_2_12, "displayName", lambda s: tasks(s)[0].update(displayName="x")),
    (rules.fields_of_argo_2_12, "colour", lambda s: parameter(s, "epochs").update(colour="red")),
    (
        rules.fields_of_argo_2_12,
        "restartPolicy",
        lambda s: train(s)["container"].update(restartPolicy="Always"),
    ),
    (rules.fields_of_argo_2_12, "not a workflow spec", lambda s: train(s).update(container="python")),
    (
        rules.parameters_for_forms,
        "visibility 'secret'",
        lambda s: parameter(s, "epochs").update(visibility="secret"),
    ),
    (
        rules.parameters_for_forms,
        "has the visibility 'None'",
        lambda s: parameter(s, "epochs").pop("visibility"),
    ),
    (rules.parameters_for_forms, "not 50", lambda s: parameter(s, "epochs").update(value=50)),
    (rules.parameters_for_forms, "not None", lambda s: parameter(s, "epochs").pop("value")),
    (
        rules.parameters_for_forms,
        "'input.slider'",
        lambda s: parameter(s, "epochs").update(type="input.slider"),
    ),
    (rules.parameters_for_forms, "not one of its options", lambda s: parameter(s, "model").update(value="detr")),
    (rules.parameters_for_forms, "not one of its options", lambda s: parameter(s, "model").pop("options")),
    (rules.dags_at_the_top, "entrypoint", lambda s: s.update(entrypoint="train-detr")),
    (rules.dags_at_the_top, "onExit", lambda s: s.update(onExit="upload-artifacts")),
    (
        rules.edges_as_dependencies,
        "'depends'",
        lambda s: tasks(s)[1].update(depends=tasks(s)[1].pop("dependencies")[0]),
    ),
    (rules.one_root_first, "2 root tasks", lambda s: tasks(s)[1].pop("dependencies")),
    (rules.one_root_first, "0 root tasks", lambda s: tasks(s)[0].update(dependencies=["evaluate"])),
    (rules.one_root_first, "first in the list", lambda s: tasks(s).reverse()),
    (
        rules.containers_without_shared_memory,
        "is not a container",
        lambda s: train(s).update(script=train(s).pop("container")),
    ),
    (
        rules.containers_without_shared_memory,
        "/dev/shm",
        lambda s: train(s)["container"]["volumeMounts"].append({"name": "dshm", "mountPath": "/dev/shm"}),
    ),
    (rules.node_selector_is_the_pool, "train-detr", lambda s: train(s)["nodeSelector"].update(zone="a")),
    (rules.node_selector_is_the_pool, "train-detr", lambda s: train(s).update(nodeSelector={"pool": "p3"})),
    (rules.node_selector_is_the_pool, "evaluate", lambda s: template(s, "evaluate").pop("nodeSelector")),
    (
        rules.names_that_are_cores,
        "sys-epochs",
        lambda s: s["arguments"]["parameters"].append({"name": "sys-epochs", "value": "1"}),
    ),
    (
        rules.names_that_are_cores,
        "sys-metrics",
        lambda s: train(s).update(outputs={"artifacts": [{"name": "sys-metrics", "path": "/tmp/x"}]}),
    ),
    (
        rules.names_that_are_cores,
        "sys-metrics.json",
        lambda s: train(s).update(outputs={"artifacts": [{"name": "mine", "path": "/tmp/sys-metrics.json"}]}),
    ),
    (
        rules.names_that_are_cores,
        "archived",
        lambda s: train(s)["inputs"]["artifacts"][0].update(archive={"tar": {}}),
    ),
    (rules.side_cars_have_ports, "port", lambda s: train(s)["sidecars"][0].pop("ports")),
    (rules.side_cars_have_ports, "ONEPANEL_INTERACTIVE_SIDECAR", lambda s: train(s).pop("sidecars")),
    (
        rules.storage_is_mounted,
        "fetch-dump",
        lambda s: template(s, "fetch-dump")["container"]["volumeMounts"].pop(),
    ),
    (
        rules.kubernetes_accepts_the_pods,
        "volume 'x'",
        lambda s: train(s)["container"]["volumeMounts"][0].update(name="x"),
    ),
    (
        rules.kubernetes_accepts_the_pods,
        "missing",
        lambda s: train(s)["container"]["volumeMounts"][0].pop("name"),
    ),
    (rules.storage_is_mounted, "upload-artifacts", lambda s: s["volumes"][0]["projected"]["sources"].pop()),
]


@pytest.mark.parametrize(("rule", "said", "break_it"), BREAKS)
def test_breaking_a_rule_is_noticed(rule: Callable[..., Any], said: str, break_it: Callable[[Spec], object]) -> None:
    spec = copy.deepcopy(ONEPANEL)
    assert list(rule(spec)) == []
    break_it(spec)
    assert any(word in problem for problem in rule(spec) for word in said.split("|"))
    assert rules.lint_onepanel(spec)


def test_every_rule_is_broken_by_a_test() -> None:
    assert {rule for rule, _, _ in BREAKS} == set(rules.ONEPANEL_RULES)
