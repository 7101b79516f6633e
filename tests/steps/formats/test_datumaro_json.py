from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datumaro
import numpy as np
import pytest

from steps.formats import datumaro_json
from tests.steps.formats.dumps import export, said
from tests.steps.refusals import refused


def document(*annotations: Any, **changes: Any) -> dict[str, Any]:
    """A file of one item."""
    return {
        "dm_format_version": "1.0",
        "categories": {"label": {"labels": [{"name": "bolt", "parent": ""}, {"name": "nut", "parent": ""}]}},
        "items": [{"id": "a", "annotations": list(annotations), "image": {"path": "a.png", "size": [90, 100]}}],
        **changes,
    }


def write(root: Path, content: Any) -> Path:
    path = root / "annotations" / "default.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def shape(kind: str, label: Any = 0, attributes: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": 1, "type": kind, "label_id": label, "attributes": attributes or {}, **fields}


@pytest.mark.parametrize(
    ("annotation", "box"),
    [
        (shape("bbox", bbox=[1.5, 2, 3, 4]), (1.5, 2, 3, 4)),
        (shape("bbox", bbox=[10, 20, 20, 40], attributes={"rotation": 90.0}), (0, 30, 40, 20)),
        (shape("bbox", bbox=[10, 20, 20, 40], attributes={"rotation": 0.0}), (10, 20, 20, 40)),
        (shape("polygon", points=[1, 2, 9, 4, 5, 8]), (1, 2, 8, 6)),
        (shape("polygon", points=[1, 2, 9, 4, 5, 8], attributes={"rotation": 45}), (1, 2, 8, 6)),
        (shape("ellipse", points=[10, 20, 30, 60]), (10, 20, 20, 40)),
        (shape("ellipse", points=[10, 20, 30, 60], attributes={"rotation": 90}), (0, 30, 40, 20)),
        (shape("mask", rle={"counts": [90, 20, 880], "size": [90, 11]}), (1, 0, 1, 20)),
    ],
)
def test_boxes(tmp_path: Path, annotation: dict[str, Any], box: tuple[float, ...]) -> None:
    write(tmp_path, document(annotation))
    found = said(datumaro_json, tmp_path)
    assert found.images == {"a": [("bolt", *(pytest.approx(value) for value in box))]}
    assert found.dataset.sizes == [(100, 90)]
    assert found.findings == {}


@pytest.mark.parametrize(
    ("annotation", "finding"),
    [
        *(
            (shape(kind, points=[1, 2, 3, 4]), {"skipped": {f"{kind}, which has no box": 1}})
            for kind in ("points", "polyline", "label", "caption", "cuboid_2d", "cuboid_3d", "skeleton")
        ),
        (shape("hologram"), {"skipped": {"annotation of an unknown type, which has no box": 1}}),
        (shape(["bbox"]), {"skipped": {"annotation of an unknown type, which has no box": 1}}),
        *(
            (shape("bbox", label=label, bbox=[1, 2, 3, 4]), {"dropped": {"box of an unlisted category": 1}})
            for label in (2, -1, None, "0", True)
        ),
        (shape("mask", rle={"counts": [990], "size": [90, 11]}), {"dropped": {"shape of zero size": 1}}),
        (shape("mask", rle={"counts": "???", "size": "x"}), {"dropped": {"shape of zero size": 1}}),
        (shape("polygon", points=[]), {"dropped": {"shape of zero size": 1}}),
        (
            shape("bbox", bbox=[1, 2, 3, 4], attributes={"outside": True}),
            {"skipped": {"object of a track while it is outside": 1}},
        ),
    ],
)
def test_what_is_no_box(tmp_path: Path, annotation: dict[str, Any], finding: dict[str, dict[str, int]]) -> None:
    write(tmp_path, document(annotation))
    found = said(datumaro_json, tmp_path)
    assert found.images == {"a": []}
    assert found.findings == finding


def test_shapes_by_datumaro(tmp_path: Path) -> None:
    painted = np.zeros((48, 64), bool)
    painted[3:10, 20:41] = True
    painted[8, 5] = True
    shapes = [
        datumaro.Mask(painted, label=0),
        datumaro.Polygon([1, 2, 9, 4, 5, 8], label=1),
        datumaro.Ellipse(10, 20, 30, 40, label=2),
        datumaro.PolyLine([1, 2, 3, 4], label=0),
        datumaro.Points([1, 2], label=0),
        datumaro.Label(1),
    ]
    found = said(datumaro_json, export(tmp_path / "dump", "datumaro", {"a": shapes}))
    assert sorted(found.images["a"]) == [("bolt", 5, 3, 36, 7), ("wing nut", 1, 2, 8, 6), ("Öse", 10, 20, 20, 20)]
    assert sum(found.findings["skipped"].values()) == 3


def test_crowd(tmp_path: Path) -> None:
    write(tmp_path, document(shape("bbox", bbox=[1, 2, 3, 4], attributes={"is_crowd": True})))
    assert said(datumaro_json, tmp_path).dataset.boxes().crowd.tolist() == [True]


def test_byte_order_mark_and_nan(tmp_path: Path) -> None:
    text = json.dumps(document(shape("bbox", bbox=[1, 2, 3, float("nan")])))
    write(tmp_path, "\ufeff" + text)
    assert len(said(datumaro_json, tmp_path).dataset.boxes()) == 1


def test_item_without_a_saved_image(tmp_path: Path) -> None:
    write(tmp_path, document(items=[{"id": "line 1/a", "annotations": []}, {"id": "b", "image": {"path": ""}}]))
    assert said(datumaro_json, tmp_path).dataset.names == ["images/default/line 1/a", "images/default/b"]


def test_coco_is_another_format(tmp_path: Path) -> None:
    write(tmp_path, {"info": {}, "images": [], "categories": [{"id": 1, "name": "bolt"}], "annotations": []})
    assert datumaro_json.recognise(tmp_path) == []
    with refused(tmp_path, "no annotations/<subset>.json of datumaro's", "Datumaro 1.0"):
        said(datumaro_json, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"items": [', ["not readable JSON (line 1, column"]),
        ('{"items": [' + "[" * 100_000, ["not readable JSON"]),
        ('[{"items": []}]', ["expected a JSON object at the top level"]),
        (document(items={}), ["'items' is not a list"]),
        (document(items=[3]), ["items[0]", "it has no 'id'"]),
        (document(items=[{"id": "a", "annotations": {}}]), ["items[0]", "'annotations' is not a list"]),
        (document(3), ["items[0].annotations[0]", "it is not an object"]),
        (document(shape("bbox", bbox=[1, 2, 3])), ["annotations[0]", "'bbox' is [1, 2, 3]"]),
        (document(shape("bbox", bbox=[1, 2, 3, "x"])), ["annotations[0]: 'bbox' is 'x', expected a number"]),
        (document(shape("bbox", bbox=[1, 2, 3, None])), ["annotations[0]: 'bbox' is None"]),
        (document(shape("polygon")), ["'points' is None"]),
        (document(shape("mask")), ["'rle' is None"]),
        (document(categories={"label": {"labels": ["bolt"]}}), ["'categories.label.labels' is not a list of names"]),
        (document(categories={"label": {"labels": 3}}), ["'categories.label.labels' is not a list of names"]),
        (document(items=[{"id": "a", "image": {"path": 3}}]), ["'image.path' is not text"]),
    ],
)
def test_malformed(tmp_path: Path, content: Any, words: list[str]) -> None:
    path = write(tmp_path, content)
    with refused(path, *words, "dump the task again"):
        said(datumaro_json, tmp_path)
