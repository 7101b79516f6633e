"""What each choice of the recipe brings on little data: AP against images seen, beside the paper's recipe.

Every row is a training of its own with the same seed, model, batch size and number of images seen, on the drawn sample
or on a dump. `recipe` is what `trainer.training.recipe` chooses; the rows below it take one choice back; `paper` takes
all back.
"""

import argparse
import json
import logging
import platform
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from pipelines.local.sample import draw_sample
from steps.prepare import prepare_data
from trainer.config import TrainConfig
from trainer.training.train import train

PAPER = {
    "recipe": "paper",
    "lr": 1e-4,
    "lr_backbone": 1e-5,
    "warmup_steps": 0,
    "lr_drop_at": 2 / 3,
    "augment": "paper",
    "dropout": 0.1,
    "eos_coef": 0.1,
}
WITHOUT: dict[str, dict[str, Any]] = {
    "recipe": {},
    "  without pretrained weights": {"pretrained": "none"},
    "  without the average of weights": {"ema_decay": 0},
    "  without warm-up": {"warmup_steps": 0},
    "  with the paper's rates": {"lr": 1e-4, "lr_backbone": 1e-5},
    "  with the paper's augmentation": {"augment": "paper"},
    "  without augmentation": {"augment": "none"},
    "  with the paper's drop at two thirds": {"lr_drop_at": 2 / 3},
    "paper": PAPER,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dump", type=Path, help="a dump's zip; the drawn sample without")
    parser.add_argument("--model", default="detr_tiny")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter of all rows")
    parser.add_argument("--only", action="append", help="a row to run, by its name")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    common = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in options.set)}
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        if options.dump:
            zipfile.ZipFile(options.dump).extractall(dataset)
        else:
            draw_sample(dataset)
        report = prepare_data(dataset)
        name = options.dump.stem if options.dump else "the drawn sample"
        images = report["images"]
        print(f"{name}: {images['train']} images to train on, {images['val']} to validate on;", end=" ")
        print(f"{options.model}, {options.epochs} epochs, seed {options.seed}, {_device()}\n")
        print("| | AP50 after a quarter | half | all | AP after all | images seen | minutes |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for row, changes in WITHOUT.items():
            if options.only and row.strip() not in options.only:
                continue
            given = {**common, **changes, "epochs": options.epochs, "seed": options.seed, "patience": 0}
            given.update(eval_every=max(1, options.epochs // 8), checkpoint_every=options.epochs)
            print(_row(row, given, options.model, dataset, Path(folder) / "output"), flush=True)


def _row(name: str, given: dict[str, Any], model: str, dataset: Path, output: Path) -> str:
    shutil.rmtree(output, ignore_errors=True)
    result = train(TrainConfig.create(given, model=model, dataset_dir=dataset, output_dir=output))
    rows = [json.loads(line) for line in result.log.read_text().splitlines()]
    seen, validated = 0, []
    for row in rows:
        seen += row["images"]
        if row["val"] is not None:
            validated.append((seen, row["val"]["AP50"]))
    at = [max(validated, key=lambda point, share=share: -abs(point[0] - share * seen))[1] for share in (0.25, 0.5, 1)]
    figures = " | ".join(f"{value:.3f}" for value in (*at, rows[-1]["val"]["AP"]))
    return f"| {name.replace('  ', '&nbsp;&nbsp;')} | {figures} | {seen} | {result.summary['seconds'] / 60:.1f} |"


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({torch.get_num_threads()} threads, {platform.machine()})"


if __name__ == "__main__":
    main()
