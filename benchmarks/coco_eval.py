"""Time our COCO evaluation against pycocotools on the same detections, and compare every number.

    python benchmarks/coco_eval.py                # of the size of COCO's val2017, about a minute a round
    python benchmarks/coco_eval.py --images 500 --boxes 3600 --rounds 3

From a list of detections to the twelve numbers, average precision and recall of each class included.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer.evaluation.coco_metrics import METRICS, coco_metrics  # noqa: E402 - found through the line above

Numbers = tuple[dict[str, float], dict[int, dict[str, float]]]
WIDTH, HEIGHT = 640, 480
OURS, PEER = "trainer.evaluation.coco_metrics", "pycocotools"


def main() -> None:
    """Draw a set, evaluate it with both in turn several times, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--boxes", type=int, default=36_000)
    parser.add_argument("--detections", type=int, default=100, help="an image")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    coco, found = draw(arguments.images, arguments.classes, arguments.boxes, arguments.detections)
    seconds: dict[str, list[float]] = {OURS: [], PEER: []}
    difference = 0.0
    for _ in range(arguments.rounds):
        # In turn, so that whatever else the machine does hits both alike.
        numbers = []
        for tool, evaluate in ((OURS, coco_metrics), (PEER, pycocotools_metrics)):
            own = [dict(row) for row in found]  # pycocotools writes into the rows
            started = time.perf_counter()
            numbers.append(evaluate(coco, own))
            seconds[tool].append(time.perf_counter() - started)
        difference = max(difference, greatest_difference(*numbers))
    print(
        f"{len(coco['images'])} images, {len(coco['categories'])} classes, {len(coco['annotations'])} boxes,"
        f" {len(found)} detections, {arguments.rounds} rounds, {os.cpu_count()} cores\n"
    )
    print("| evaluation | median s | min - max s | times ours |\n| --- | ---: | ---: | ---: |")
    base = statistics.median(seconds[OURS])
    for tool, taken in seconds.items():
        median = statistics.median(taken)
        print(f"| `{tool}` | {median:.2f} | {min(taken):.2f} - {max(taken):.2f} | {median / base:.1f} |")
    ratios = [peer / ours for ours, peer in zip(seconds[OURS], seconds[PEER], strict=True)]
    print(f"\nThe ratio in a round: {min(ratios):.1f} to {max(ratios):.1f}.")
    print(f"The greatest difference between any two numbers: {difference:.1e}; AP {numbers[0][0]['AP']:.4f}.")


def draw(images: int, classes: int, boxes: int, detections: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A set with what real ones have: crowds, all sizes, images and classes without boxes, scores that tie."""
    rng = np.random.default_rng(0)
    image_ids = rng.permutation(3 * images)[:images] + 1
    class_ids = np.sort(rng.permutation(2 * classes)[:classes]) + 1
    filled, used = image_ids[: images - images // 10], class_ids[: classes - classes // 16]
    image_of = rng.choice(filled, boxes)
    # Few classes are common and many are rare.
    share = 1 / np.arange(1, len(used) + 1)
    class_of = rng.choice(used, boxes, p=share / share.sum())
    sides = np.exp(rng.uniform(np.log(6), np.log(350), (boxes, 2)))
    corner = rng.uniform(0, 1, (boxes, 2)) * np.maximum([WIDTH, HEIGHT] - sides, 1)
    rectangles = np.concatenate([corner, sides], axis=1).round(2)
    crowd = rng.random(boxes) < 0.012
    # As of a mask, which fills a part of its box.
    areas = sides.prod(axis=1) * rng.uniform(0.4, 1, boxes)
    annotations = [
        {
            "id": index + 1,
            "image_id": int(image_of[index]),
            "category_id": int(class_of[index]),
            "bbox": rectangles[index].tolist(),
            "area": float(areas[index]),
            "iscrowd": int(crowd[index]),
        }
        for index in range(boxes)
    ]
    in_image: dict[int, list[int]] = {}
    for index, image_id in enumerate(image_of.tolist()):
        in_image.setdefault(image_id, []).append(index)
    found: list[dict[str, Any]] = []
    for image_id in image_ids.tolist():
        # Each object is detected up to three times, more or less well; the rest lies anywhere.
        near = np.repeat(in_image.get(image_id, []), rng.integers(0, 4, len(in_image.get(image_id, []))))
        near = near[:detections].astype(int)
        far = detections - len(near)
        shaken = rectangles[near] + rng.normal(0, 0.1, (len(near), 4)) * sides[near].mean(axis=1, keepdims=True)
        stray = np.concatenate([rng.uniform(0, 1, (far, 2)) * [WIDTH, HEIGHT], rng.uniform(5, 200, (far, 2))], axis=1)
        where = np.concatenate([shaken, stray])
        where[:, 2:] = np.maximum(where[:, 2:], 1)
        right = rng.random(len(near)) < 0.85
        labels = np.concatenate(
            [np.where(right, class_of[near], rng.choice(class_ids, len(near))), rng.choice(class_ids, far)]
        )
        scores = np.concatenate([rng.beta(3, 2, len(near)), rng.beta(1, 6, far)])
        scores = np.where(rng.random(detections) < 0.5, scores.round(2), scores)
        found.extend(
            {"image_id": image_id, "category_id": label, "bbox": bbox, "score": score}
            for label, bbox, score in zip(labels.tolist(), where.tolist(), scores.tolist(), strict=True)
        )
    coco = {
        "images": [{"id": image_id, "width": WIDTH, "height": HEIGHT} for image_id in image_ids.tolist()],
        "annotations": annotations,
        "categories": [{"id": class_id, "name": f"class {class_id}"} for class_id in class_ids.tolist()],
    }
    return coco, found


def pycocotools_metrics(coco: dict[str, Any], found: list[dict[str, Any]]) -> Numbers:
    """What `coco_metrics` gives, from pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    per_class = {}
    for place, class_id in enumerate(evaluator.params.catIds):
        values = {
            "AP": precision[:, :, place, 0, 2],
            "AP50": precision[0, :, place, 0, 2],
            "AP75": precision[5, :, place, 0, 2],
            "AR100": recall[:, place, 0, 2],
        }
        per_class[class_id] = {name: v[v > -1].mean() if (v > -1).any() else -1.0 for name, v in values.items()}
    return dict(zip(METRICS, evaluator.stats, strict=True)), per_class


def greatest_difference(ours: Numbers, theirs: Numbers) -> float:
    """Over the twelve numbers and each class's."""
    pairs = [(ours[0][name], theirs[0][name]) for name in METRICS]
    for class_id, scores in theirs[1].items():
        pairs += [(ours[1][class_id][name], value) for name, value in scores.items()]
    return max(abs(a - b) for a, b in pairs)


if __name__ == "__main__":
    main()
