"""What Argo would refuse in its own manifests."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from pipelines.cli import WORKFLOW
from pipelines.manifest.argo_rules import lint_argo

Document = dict[str, Any]
ARGO: Document = yaml.safe_load(WORKFLOW.read_text())


@pytest.mark.parametrize(
    ("said", "break_it"),
    [
        ("spec.when is not a field", lambda d: d["spec"].update(when="now")),
        ("nodeSelecter is not a field", lambda d: d["spec"]["templates"][2].update(nodeSelecter={})),
        ("used-by", lambda d: d["metadata"]["labels"].clear()),
        ("used-by", lambda d: d["spec"].pop("podMetadata")),
        ("the name 'DETR Training-'", lambda d: d["metadata"].update(generateName="DETR Training-")),
        ("the name 'detr-'", lambda d: d["metadata"].update(name="detr-")),
        ("kind is 'Pod'", lambda d: d.update(kind="Pod")),
        ("image", lambda d: d["spec"]["templates"][0]["container"].update(image=7)),
    ],
)
def test_what_argo_would_refuse_is_noticed(said: str, break_it: Callable[[Document], object]) -> None:
    document = copy.deepcopy(ARGO)
    assert lint_argo(document) == []
    break_it(document)
    assert any(said in problem for problem in lint_argo(document))
