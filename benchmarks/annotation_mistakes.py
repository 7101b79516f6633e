"""How many of the annotations that the report disputes are wrong, where it is known which are.

A trained model looks at images of a prepared dataset (`--split`) whose annotations get mistakes: of each kind in one of
thirty boxes, drawn by the seed. "Among the first" is the share of planted mistakes among as many of the most disputed
annotations of a kind as were planted; by chance it would be a thirtieth. The dataset's own mistakes count as wrong
guesses.
"""

import argparse
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.report.matching import Box, ValImage, collect, overlap
from steps.report.mistakes import KINDS, LOOSE, OVERLOOKED, SWAPPED, Mistake, disputed, trusted_classes
from steps.report.reading import thresholds_of
from trainer.data.coco_dataset import annotation_file, read_coco
from trainer.evaluation.evaluate import evaluate

ONE_OF = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, action="append", required=True, help="a prepared dataset's folder")
    parser.add_argument("--checkpoint", type=Path, action="append", required=True, help="one for each dataset")
    parser.add_argument("--split", default="val")
    parser.add_argument("--seed", type=int, action="append")
    options = parser.parse_args()
    print("| dataset | seed | kind | planted | found | among the first | disputed in all |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for dataset, checkpoint in zip(options.dataset, options.checkpoint, strict=True):
        coco = read_coco(annotation_file(dataset, options.split))
        result = evaluate(dataset, checkpoint, split=options.split, workers=0)
        metrics = {"operating_points": result.operating_points.as_dict()}
        for seed in options.seed or [0, 1]:
            names, images = collect(coco, result.predictions)
            planted = plant(images, sorted(names), random.Random(seed))
            found = disputed(images, options.split, thresholds_of(metrics, names), trusted_classes(metrics, names))
            for kind in KINDS:
                print(f"| {dataset.name} | {seed} | {row(kind, planted, found)} |", flush=True)


def plant(images: Iterable[ValImage], classes: list[int], chance: random.Random) -> dict[str, list[tuple[int, Box]]]:
    """Make annotations wrong; give the image and the right box of each, by kind."""
    planted: dict[str, list[tuple[int, Box]]] = {kind: [] for kind in KINDS}
    for image in images:
        for right in [box for box in image.truth if not box.crowd]:
            kind = chance.choice(KINDS) if chance.random() < len(KINDS) / ONE_OF else None
            if kind is None or (kind == SWAPPED and len(classes) == 1):
                continue
            image.truth.remove(right)
            changed: dict[str, Any] = {}
            if kind == SWAPPED:
                changed = {"category": chance.choice([each for each in classes if each != right.category])}
            elif kind == LOOSE:
                # A third of its side to a side and a quarter up or down: an IoU of a third.
                changed = {
                    "x": right.x + chance.choice((-1, 1)) * right.w / 3,
                    "y": right.y + chance.choice((-1, 1)) * right.h / 4,
                }
            if kind != OVERLOOKED:
                image.truth.append(Box(**{**vars(right), **changed}))
            planted[kind].append((image.id, right))
    return planted


def row(kind: str, planted: dict[str, list[tuple[int, Box]]], found: list[Mistake]) -> str:
    """The figures of a kind."""
    wanted, told = planted[kind], [each for each in found if each.kind == kind]

    def is_planted(mistake: Mistake) -> bool:
        return any(mistake.image.id == image and overlap(mistake.predicted, box) >= 0.5 for image, box in wanted)

    hits = [is_planted(each) for each in told]
    first = f"{sum(hits[: len(wanted)]) / len(wanted):.2f}" if wanted else "-"
    return f"{kind} | {len(wanted)} | {sum(hits)} | {first} | {len(told)}"


if __name__ == "__main__":
    main()
