"""What detectors find after a few hundred images, and what each part of ours brings.

Every row is a training of its own under the product's loop: the same images, backbone and ImageNet weights,
augmentation, batches and number of images seen; rates are each model's own defaults. It runs on one thread, in a
process of its own whose peak memory is given. CPU seconds are those of training steps: forward, losses, backward,
optimizer.

`--set many_small` draws 200 images with some eighty objects of 6 to 10 px each; any other set is a dump's zip. With
`--train-on` the images of a second dump train and all others validate. They do so once, after the last step: no epoch
is chosen by them.
"""

import argparse
import json
import logging
import multiprocessing
import platform
import random
import resource
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import dfine_lite0  # noqa: F401  Registers the model.
import torch
from PIL import Image, ImageDraw
from torchvision.ops import batched_nms, box_convert

from steps.prepare import prepare_data
from trainer.config import TrainConfig
from trainer.data.batch import Batch
from trainer.data.coco_dataset import annotation_file, read_coco
from trainer.data.images import read_image
from trainer.evaluation.coco_metrics import coco_metrics
from trainer.evaluation.evaluate import evaluate
from trainer.training.train import train
from trainer.training.train_step import Learner

MODELS = ("ddq_lite0", "fasterrcnn_lite0", "dfine_lite0")
WITHOUT: dict[str, dict[str, Any]] = {
    "without denoising queries": {"denoising_queries": 0},
    "without suppression of duplicates": {"distinct_iou": 1.0},
    "with one cell an object in the first stage": {"assigned_cells": 1},
    "with one decoder layer": {"decoder_layers": 1},
    "with three decoder layers": {"decoder_layers": 3},
    "without the average of weights": {"ema_decay": 0},
    "without augmentation": {"augment": "none"},
    "without ImageNet weights": {"pretrained": "none"},
}
"""Each part of `ddq_lite0` and of its recipe, taken out."""
MANY_SMALL = "many_small"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", required=True, help=f"a dump's zip, or {MANY_SMALL}")
    parser.add_argument("--train-on", help="a dump of the same images: those in it train, all others validate")
    parser.add_argument("--model", action="append", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--parts", action="store_true", help="ddq_lite0 with each part taken out, in place of models")
    parser.add_argument("--seen", type=int, default=2000, help="images, rounded to whole epochs")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--device", default="cpu", help="on a GPU seconds are those of the clock, memory the GPU's")
    parser.add_argument("--nine", action="store_true", help="nine images, each at half its size, to an image")
    parser.add_argument("--size", type=int, default=256, help="shorter side in px")
    options = parser.parse_args()
    rows = [(model, model, {}) for model in options.model or MODELS]
    if options.parts:
        rows = [("ddq_lite0", "ddq_lite0", {}), *((name, "ddq_lite0", changes) for name, changes in WITHOUT.items())]
    where = f"one thread of {platform.machine()}" if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"{options.size} px, {where}, torch {torch.__version__}\n")
    print("| set | model | seed | images seen | AP | AP50 | AP50 by class | with NMS at .7 | s an image | peak MB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.set:
            dataset = Path(folder) / Path(name).stem
            if name == MANY_SMALL:
                draw_many_small(dataset)
            else:
                zipfile.ZipFile(name).extractall(dataset)
            prepare_data(dataset)
            images = hold_out(dataset, options.train_on)
            if options.nine:
                images = nine_to_an_image(dataset)
            epochs = max(1, round(options.seen / images))
            for seed in options.seed or [0, 1]:
                for title, model, changes in rows:
                    sizes = {"image_size": options.size, "max_size": options.size * 7 // 4}
                    given = {**sizes, "device": options.device, **changes}
                    output = Path(folder) / f"{dataset.name}-{title}-{seed}"
                    figures = in_own_process(model, given, dataset, output, epochs, seed)
                    print(f"| {dataset.name} | {title} | {seed} | {figures} |", flush=True)


def hold_out(dataset: Path, train_on: str | None) -> int:
    """Keeps the validation images from the training itself, as the split `held_out`; returns how many images train."""
    files = {split: annotation_file(dataset, split) for split in ("train", "val", "held_out")}
    both = [read_coco(files[split]) for split in ("train", "val")]
    if train_on is not None:
        chosen = {Path(name).name for name in zipfile.ZipFile(train_on).namelist()}
        images = [image for part in both for image in part["images"]]
        boxes = [box for part in both for box in part["annotations"]]
        trains = {image["id"] for image in images if Path(image["file_name"]).name in chosen}
        both = [
            {
                **both[0],
                "images": [image for image in images if (image["id"] in trains) == train],
                "annotations": [box for box in boxes if (box["image_id"] in trains) == train],
            }
            for train in (True, False)
        ]
    nothing = {**both[1], "images": [], "annotations": []}
    for split, content in (("train", both[0]), ("val", nothing), ("held_out", both[1])):
        # Without `info`, whose sums are those of the files as they were.
        files[split].write_text(json.dumps({name: part for name, part in content.items() if name != "info"}))
    return len(both[0]["images"])


def nine_to_an_image(dataset: Path) -> int:
    """Puts the images of a split together, nine at half the first one's size to one; returns how many train."""
    counts = []
    for split in ("train", "held_out"):
        file = annotation_file(dataset, split)
        content = read_coco(file)
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for start in range(0, len(content["images"]) - 8, 9):
            nine = content["images"][start : start + 9]
            width, height = nine[0]["width"] // 2, nine[0]["height"] // 2
            picture = Image.new("RGB", (3 * width, 3 * height))
            for place, image in enumerate(nine):
                left, top = place % 3 * width, place // 3 * height
                across, down = width / image["width"], height / image["height"]
                picture.paste(read_image(dataset / image["file_name"]).resize((width, height)), (left, top))
                for box in content["annotations"]:
                    if box["image_id"] == image["id"]:
                        x, y, w, h = box["bbox"]
                        moved = [left + x * across, top + y * down, w * across, h * down]
                        area = box["area"] * across * down
                        boxes.append({**box, "image_id": nine[0]["id"], "bbox": moved, "area": area})
            name = f"images/{split}-{start}.png"
            picture.save(dataset / name)
            images.append({"id": nine[0]["id"], "file_name": name, "width": picture.width, "height": picture.height})
        file.write_text(json.dumps({**content, "images": images, "annotations": boxes}))
        counts.append(len(images))
    return counts[0]


def in_own_process(*arguments: Any) -> str:
    """What `run` returns, from a process that nothing was allocated in before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


def run(model: str, given: dict[str, Any], dataset: Path, output: Path, epochs: int, seed: int) -> str:
    """Trains and evaluates the last weights: the figures of a row."""
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    on_gpu = given["device"] != "cpu"
    spent, seen = count_seconds(on_gpu)
    fixed = {"batch_size": 4, "augment": "light", "patience": 0, "workers": 0}
    settings = {**fixed, **given, "epochs": epochs, "seed": seed}
    result = train(TrainConfig.create(settings, model=model, dataset_dir=dataset, output_dir=output))
    found = evaluate(dataset, result.last_checkpoint, split="held_out", workers=0)
    classes = ", ".join(f"{name} {figures['AP50']:.3f}" for name, figures in found.per_class.items())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if on_gpu:
        peak = torch.cuda.max_memory_allocated() / 1024**2
    figures = f"{sum(seen)} | {found.metrics['AP']:.3f} | {found.metrics['AP50']:.3f} | {classes}"
    return f"{figures} | {with_nms(dataset, found.predictions)} | {sum(spent) / sum(seen):.3f} | {peak:.0f}"


def with_nms(dataset: Path, predictions: list[dict[str, Any]]) -> str:
    """AP and AP50 of what NMS at an IoU of .7, class by class, leaves of the predictions."""
    boxes = box_convert(torch.tensor([row["bbox"] for row in predictions]).reshape(-1, 4), "xywh", "xyxy")
    scores = torch.tensor([row["score"] for row in predictions])
    groups = [(row["image_id"], row["category_id"]) for row in predictions]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    kept = batched_nms(boxes, scores, torch.tensor([numbers[group] for group in groups]), 0.7)
    metrics, _ = coco_metrics(read_coco(annotation_file(dataset, "held_out")), [predictions[i] for i in kept.tolist()])
    return f"{metrics['AP']:.3f} / {metrics['AP50']:.3f}"


def count_seconds(on_gpu: bool) -> tuple[list[float], list[int]]:
    """Seconds (of this process on the CPU, of the clock on a GPU) and images of each step from now on."""

    def now() -> float:
        if not on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    spent: list[float] = []
    seen: list[int] = []
    step = Learner.step

    def counted(self: Learner, batch: Batch, stop_requested: bool = False) -> Any:
        before = now()
        result = step(self, batch, stop_requested)
        spent.append(now() - before)
        seen.append(len(batch.images))
        return result

    Learner.step = counted  # type: ignore[method-assign]
    return spent, seen


def draw_many_small(folder: Path, images: int = 200, side: int = 256) -> None:
    """Writes a COCO dump of drawn images, each with some eighty seeds and grains on uneven ground."""
    chance = random.Random(0)
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 1, "name": "seed"}, {"id": 2, "name": "grain"}]
    for number in range(images):
        name = f"{number:04d}.png"
        picture = Image.effect_noise((side, side), 30).convert("RGB")
        draw = ImageDraw.Draw(picture)
        for _ in range(chance.randint(60, 100)):
            category, width = chance.choice((1, 2)), chance.randint(6, 10)
            # A seed is round, a grain lies along one axis; their colours overlap.
            height = width if category == 1 else round(width * 0.6)
            x, y = chance.randint(0, side - width), chance.randint(0, side - height)
            colour = (chance.randint(150, 220), chance.randint(110, 180), chance.randint(20, 90))
            draw.ellipse([x, y, x + width - 1, y + height - 1], fill=colour)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number + 1,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        picture.save(folder / "images" / name)
        content["images"].append({"id": number + 1, "file_name": name, "width": side, "height": side})
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
