"""Whether annotating the images that `steps.predictions.ranking` names beats annotating any.

A model learns from a few images, the others are ranked by it, and a second model learns from the first few and those
that a strategy adds: at random, or by rank. Each training is the product's own, starts from ImageNet weights and sees
as many images as the others; the AP is that of the last weights, on images that no training and no ranking saw.

A second table, for which `--rank-only` trains the first model alone, compares what is chosen with the mistakes that the
model makes there (objects missed and boxes that are none, at its thresholds): a doubt is good for something if it says
where those are.
"""

import argparse
import json
import logging
import platform
import random
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from steps.cvat.boxes import plain_boxes
from steps.predictions.ranking import assess, rank
from steps.prepare import prepare_data
from steps.report.matching import collect, match
from steps.report.reading import Thresholds
from trainer import TrainConfig, evaluate, load, train
from trainer.data.coco_dataset import annotation_file, read_coco
from trainer.data.image_file import open_image

STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {},
    "sum, different": {"by": "sum"},
    "sum": {"by": "sum", "candidates": 1},
    "max, different": {"by": "max"},
    "mean, different": {"by": "mean"},
    "different": {"candidates": None},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", required=True, help="a dump's zip")
    parser.add_argument("--annotated", type=int, default=25, help="images at first, a fifth of which validate")
    parser.add_argument("--add", type=int, default=20, help="images that a strategy chooses")
    parser.add_argument("--held-out", type=int, default=80, help="images to measure AP on")
    parser.add_argument("--seen", type=int, default=600, help="images that a training sees")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="default: all")
    parser.add_argument("--rank-only", action="store_true", help="the second table alone")
    parser.add_argument("--model", default="ddq_lite0")
    parser.add_argument("--size", type=int, default=192, help="shorter side in px")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, help="a folder for the models: what lies there is not trained again")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    print(f"{options.model}, {options.size} px, one thread of {platform.machine()}, torch {torch.__version__}\n")
    if not options.rank_only:
        print("| set | seed | added | boxes in them | AP | AP50 | AP before |")
        print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.set:
            dataset = Path(folder) / Path(name).stem
            zipfile.ZipFile(name).extractall(dataset)
            prepare_data(dataset)
            for seed in options.seed or [0, 1]:
                rows += compare(dataset, (options.work or Path(folder)) / f"{dataset.name}-{seed}", seed, options)
    print("\n| set | seed | chosen by | correlation | objects an image | mistakes an image | mistakes an object |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


def compare(dataset: Path, work: Path, seed: int, options: argparse.Namespace) -> list[str]:
    """Prints a row for each strategy, and gives the second table's."""
    both = [read_coco(annotation_file(dataset, split)) for split in ("train", "val")]
    whole = {key: both[0][key] + both[1][key] for key in ("images", "annotations")}
    whole["categories"] = both[0]["categories"]
    images = sorted(whole["images"], key=lambda image: str(image["file_name"]))
    chance = random.Random(seed)
    chance.shuffle(images)
    held_out, first = images[: options.held_out], images[options.held_out :][: options.annotated]
    rest = images[options.held_out + options.annotated :]
    validate = max(1, options.annotated // 5)
    settings = {"image_size": options.size, "max_size": options.size * 7 // 4, "device": options.device, "seed": seed}

    def learn(name: str, chosen: list[Any], val: list[Any], seen: int) -> tuple[Path, dict[str, float]]:
        """The checkpoint and the metrics of a training."""
        for split, part in (("train", chosen), ("val", val), ("held_out", held_out)):
            ids = {image["id"] for image in part}
            boxes = [box for box in whole["annotations"] if box["image_id"] in ids]
            annotation_file(dataset, split).write_text(json.dumps({**whole, "images": part, "annotations": boxes}))
        output = work / name
        done = output / "figures.json"
        if not done.exists():
            fixed = {"batch_size": 4, "augment": "light", "patience": 0, "workers": 0}
            epochs = max(1, round(seen / len(chosen)))
            config = TrainConfig.create(
                {**fixed, **settings, "epochs": epochs}, model=options.model, dataset_dir=dataset, output_dir=output
            )
            last = train(config).last_checkpoint
            done.write_text(json.dumps(evaluate(dataset, last, split="held_out", workers=0).metrics))
        return output / "checkpoints" / "last.pth", json.loads(done.read_text())

    checkpoint, before = learn("first", first[validate:], first[:validate], options.seen)
    detector = load(checkpoint, options.device)
    found, predictions = [], []
    for image in rest:
        with open_image(dataset / image["file_name"]) as picture:
            (seen,) = detector.predict([picture], 0, features=True)
        found.append(assess(seen, detector.thresholds, detector.class_names))
        for label, score, (x0, y0, x1, y1) in plain_boxes(seen):
            if score >= detector.thresholds[label]:
                box = {"category_id": detector.category_ids[label], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
                predictions.append({"image_id": image["id"], **box})
    _, images_seen = collect({**whole, "images": rest}, predictions)
    for each in images_seen:
        match(each, Thresholds(0))
    mistakes = {each.id: each.errors for each in images_seen}
    objects = {each.id: len(each.truth) for each in images_seen}

    rows = []
    for strategy, how in STRATEGIES.items():
        chosen, correlation = list(mistakes), ""
        if how:
            chosen = [rest[image.index]["id"] for image in rank(found, options.add, **how)]
        if "by" in how:
            doubts = {rest[image.index]["id"]: image.uncertainty for image in rank(found, len(found), by=how["by"])}
            values = [doubts[image] for image in mistakes]
            correlation = f"{spearmanr(values, list(mistakes.values())).statistic:.2f}"
        wrong, there = (sum(count[image] for image in chosen) for count in (mistakes, objects))
        figures = f"{there / len(chosen):.1f} | {wrong / len(chosen):.1f} | {wrong / there:.2f}"
        name = strategy if how else "any"
        rows.append(f"| {dataset.name} | {seed} | {name} | {correlation} | {figures} |")
    if options.rank_only:
        return rows
    for strategy in options.strategy or STRATEGIES:
        if strategy == "random":
            chosen = chance.sample(range(len(rest)), options.add)
        else:
            chosen = [image.index for image in rank(found, options.add, **STRATEGIES[strategy])]
        added = [rest[index] for index in chosen]
        _, after = learn(strategy.replace(", ", "-"), first + added, [], options.seen)
        ids = {image["id"] for image in added}
        boxes = sum(box["image_id"] in ids for box in whole["annotations"])
        figures = " | ".join(f"{value:.3f}" for value in (after["AP"], after["AP50"], before["AP"]))
        print(f"| {dataset.name} | {seed} | {strategy} | {boxes} | {figures} |", flush=True)
    return rows


if __name__ == "__main__":
    main()
