from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from trainer.errors import TrainerError
from trainer.evaluation.coco_metrics import METRICS, coco_metrics


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


def nasty_scene(seed: int) -> tuple[dict, list[dict]]:
    """What makes evaluators differ: ties of scores and of overlaps, overlaps on a threshold, areas on the border of a
    size, crowds, more detections of a class than count, images and classes without objects, ids in no order."""
    rng = random.Random(seed)
    image_ids = rng.sample(range(50), rng.choice([1, 2, 5, 12]))
    category_ids = rng.sample(range(20), rng.choice([1, 2, 4]))
    grid = rng.choice([0.1, 1, 2, 8])

    def box() -> list[float]:
        longest = rng.choice([8, 32, 64, 96, 128])
        width, height = (max(grid, round(rng.choice([longest, rng.uniform(1, longest)]) / grid) * grid) for _ in "wh")
        return [round(rng.uniform(-5, 200) / grid) * grid, round(rng.uniform(-5, 200) / grid) * grid, width, height]

    def detection(image_id: int, category_id: int, bbox: list[float], score: float) -> dict:
        return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}

    truth, found = [], []
    for image_id in image_ids:
        for _ in range(rng.choice([0, 0, 1, 3, 10, 120])):
            x, y, width, height = box()
            # The last class has no object where there are several.
            category_id = rng.choice(category_ids[: max(1, len(category_ids) - 1)])
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x, y, width, height],
                    "area": rng.choice([width * height, 32**2, 96**2, rng.uniform(1, 20000)]),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.choice([0, 1, 2])):
                moved = [x + rng.choice([0, grid, -grid, 2 * grid]), y, width, height]
                label = category_id if rng.random() < 0.8 else rng.choice(category_ids)
                found.append(
                    detection(image_id, label, moved, rng.choice([round(rng.random(), 1), rng.random(), 0, 1]))
                )
        for _ in range(rng.choice([0, 3, 130])):
            found.append(detection(image_id, rng.choice(category_ids), box(), round(rng.random(), 1)))
    rng.shuffle(truth)
    rng.shuffle(found)
    # Its loader cannot tell the kind of no results at all; and one empty box must not trouble anybody.
    found.append(detection(image_ids[0], category_ids[0], [3.0, 3.0, 0.0, 5.0], 0.5))
    return {
        "images": [{"id": image_id, "width": 300, "height": 300} for image_id in image_ids],
        "annotations": truth,
        "categories": [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids],
    }, found


def reference(folder: Path, content: dict, found: list[dict]) -> COCOeval:
    """pycocotools' evaluation of the two as files, the way everybody runs it."""
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        evaluator = COCOeval(truth, truth.loadRes(str(folder / "found.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def measured_mean(values: np.ndarray) -> float:
    """COCO's mean: over what is not -1, and -1 where everything is."""
    return float(values[values > -1].mean()) if (values > -1).any() else -1.0


@pytest.mark.parametrize("make", [scene, *(functools.partial(nasty_scene, seed) for seed in range(40))])
def test_numbers_are_those_of_pycocotools_on_the_files(make: Callable[[], tuple[dict, list[dict]]], tmp_path: Path):
    content, found = make()
    evaluator = reference(tmp_path, content, found)
    metrics, per_class = coco_metrics(content, found)
    assert list(metrics) == list(METRICS)
    assert list(metrics.values()) == pytest.approx(evaluator.stats.tolist(), abs=1e-12)
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    assert list(per_class) == evaluator.params.catIds
    for place, scores in enumerate(per_class.values()):
        assert scores["AP"] == pytest.approx(measured_mean(precision[:, :, place, 0, 2]), abs=1e-12)
        assert scores["AP50"] == pytest.approx(measured_mean(precision[0, :, place, 0, 2]), abs=1e-12)
        assert scores["AP75"] == pytest.approx(measured_mean(precision[5, :, place, 0, 2]), abs=1e-12)
        assert scores["AR100"] == pytest.approx(measured_mean(recall[:, place, 0, 2]), abs=1e-12)


def test_the_nasty_scenes_are_neither_all_right_nor_all_wrong():
    aps = [coco_metrics(*nasty_scene(seed))[0]["AP"] for seed in range(40)]
    assert sum(0.01 < ap < 0.99 for ap in aps) > 20
    assert -1 in aps


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
        for name in ("AP", "AP50", "AP75", "AR100"):
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


def test_what_exporters_add_does_not_matter():
    content, found = scene()
    wanted = coco_metrics(content, found)
    for image in content["images"]:
        image |= {"license": "none", "date_captured": 0, "flickr_url": None}
    for annotation in content["annotations"]:
        annotation |= {"segmentation": None, "attributes": {"occluded": False}}
    assert coco_metrics({**content, "info": 7, "licenses": {}}, found) == wanted


def test_the_arguments_stay_as_they_were():
    content, found = scene()
    before = json.dumps([content, found])
    coco_metrics(content, found)
    assert json.dumps([content, found]) == before


def test_scores_that_are_no_numbers_are_refused():
    content, found = scene()
    found[3]["score"] = math.nan
    with pytest.raises(TrainerError, match=r"NaN score.*the weights are broken: train again with a lower lr") as caught:
        coco_metrics(content, found)
    assert len(str(caught.value).splitlines()) == 1
