from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from trainer.coco_eval import METRICS, coco_metrics


def scene() -> tuple[dict, list[dict]]:
    """Ground truth of all sizes on eight images, and detections that are near, far or of another class."""
    rng = random.Random(0)
    images = [{"id": 10 + index, "width": 300, "height": 300} for index in range(8)]
    truth, found = [], []
    for image in images:
        for _ in range(rng.randint(0, 5)):
            side = rng.choice([12, 50, 120])
            x, y = rng.uniform(0, 300 - side), rng.uniform(0, 300 - side)
            category = rng.choice([3, 9])
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [x, y, side, side * 0.8],
                    "area": side * side * 0.8,
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for shift in (0.03, 0.2, 0.9):
                found.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if rng.random() < 0.8 else 12 - category,
                        "bbox": [x + shift * side, y, side, side * 0.8],
                        "score": rng.random(),
                    }
                )
    return {
        "images": images,
        "annotations": truth,
        "categories": [{"id": 3, "name": "a"}, {"id": 9, "name": "b"}],
    }, found


def test_numbers_are_those_of_pycocotools_on_the_files(tmp_path: Path):
    content, found = scene()
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    metrics, _ = coco_metrics(content, found)
    assert list(metrics) == list(METRICS)
    assert list(metrics.values()) == pytest.approx(evaluator.stats.tolist())
    assert 0.1 < metrics["AP"] < 0.9


def test_numbers_of_a_class_are_those_of_a_file_with_that_class_alone():
    content, found = scene()
    _, per_class = coco_metrics(content, found)
    for category in (3, 9):
        alone = {
            **content,
            "annotations": [a for a in content["annotations"] if a["category_id"] == category],
            "categories": [c for c in content["categories"] if c["id"] == category],
        }
        metrics, _ = coco_metrics(alone, [row for row in found if row["category_id"] == category])
        scores = per_class[category]
        for name in ("AP", "AP50", "AR100"):
            assert scores[name] == pytest.approx(metrics[name])
        counted = [a for a in alone["annotations"] if not a["iscrowd"]]
        assert scores["boxes"] == len(counted)
        assert scores["images"] == len({a["image_id"] for a in counted})


def test_perfect_detections_score_one_and_nothing_is_printed(capsys):
    content, _ = scene()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    found = [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0} for a in content["annotations"]]
    metrics, _ = coco_metrics(content, found)
    assert metrics["AP"] == pytest.approx(1)
    assert capsys.readouterr().out == ""


def test_no_detections_score_zero_and_no_objects_minus_one():
    content, found = scene()
    assert coco_metrics(content, [])[0]["AP"] == 0
    assert set(coco_metrics({**content, "annotations": []}, found)[0].values()) == {-1.0}


def test_ids_from_zero_missing_areas_and_empty_boxes():
    content, found = scene()
    wanted, _ = coco_metrics(content, found)
    for annotation in content["annotations"]:
        annotation["id"] -= 1
    content["annotations"][0].pop("area")
    content["annotations"].append(
        {"id": 0, "image_id": 10, "category_id": 3, "bbox": [5, 5, 0, 9], "area": 0, "iscrowd": 0}
    )
    assert coco_metrics(content, found)[0] == pytest.approx(wanted)
