"""The page that an engineer opens after a training run: `report.html`, one file with everything inside.

The page answers, in this order: is the model any good, which classes, sizes and images does it fail on, how did
the training go, and what happened to the data on the way. Charts are SVG drawn by matplotlib, images are JPEG
thumbnails with the boxes drawn over them as SVG; nothing is loaded from anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.common.files import replacing
from steps.cvat.links import frame_links
from steps.report import charts, counting, mistakes, tables, words
from steps.report.formats import percent
from steps.report.matching import collect, match
from steps.report.pictures import choose, picture
from steps.report.reading import (
    figures_of,
    number,
    read_list,
    read_log,
    read_object,
    read_optional,
    thresholds_of,
    within,
)
from steps.report.render import render

_MOST_CLASSES, _BEST_AND_WEAKEST = 40, 15
_DISPUTED = 6
"""Annotations of each kind of mistake that are shown."""


TRAIN_PREDICTIONS = "predictions_train.json"
"""COCO results on training images, which an evaluation leaves in the run's folder."""
MISTAKES = "mistakes.csv"


@dataclass(frozen=True)
class Report:
    """The page, and what of it is worth a line in the log."""

    path: Path
    headline: str
    found: str
    """Precision and recall in a sentence."""
    annotate_next: list[str]
    """Classes and sizes that were missed most."""
    disputed: int
    """How many annotations the model disputes; they are in `mistakes.csv`."""


def write_report(
    dataset_dir: Path, output_dir: Path, *, max_images: int = 24, score_threshold: float | None = None
) -> Report:
    """Write `output_dir/report.html`, and `output_dir/mistakes.csv` with the annotations that the model disputes.

    Reads `dataset_dir/annotations/instances_val.json` and the images that it names,
    `output_dir/metrics.json` and `output_dir/predictions.json`; and, where they exist,
    `dataset_dir/prepare_report.json`, `output_dir/train.json` and `output_dir/log.jsonl`, and
    `output_dir/predictions_train.json` with `instances_train.json`. The same inputs give the same bytes.

    Args:
        dataset_dir: what the prepare step wrote.
        output_dir: what the train and evaluate steps wrote; the page goes there.
        max_images: how many validation images to show at most.
        score_threshold: score from which a prediction counts. None for the operating points in `metrics.json`,
            or 0.5 where it has none.

    Raises:
        StepError: a file that the page cannot do without is missing or is not JSON of the expected kind.
    """
    annotations = read_object(dataset_dir / "annotations" / "instances_val.json", "prepare")
    metrics = read_object(output_dir / "metrics.json", "evaluate")
    predictions = read_list(output_dir / "predictions.json", "evaluate")
    prepared = read_optional(dataset_dir / "prepare_report.json")
    trained = read_optional(output_dir / "train.json")
    log = read_log(output_dir / "log.jsonl")
    links = frame_links(dataset_dir)

    names, images = collect(annotations, predictions)
    thresholds = thresholds_of(metrics, names, score_threshold)
    for image in images:
        match(image, thresholds)
    classes = counting.class_rows(names, images, metrics, prepared, thresholds)
    sums = counting.totals(images)
    sizes = counting.size_rows(images)
    balance = counting.balance(images)
    loose, strict = (counting.precision_by_class(images, strict=strict) for strict in (False, True))
    trusted = mistakes.trusted_classes(metrics, names)
    found = mistakes.disputed(images, "validation", thresholds, trusted)
    if (output_dir / TRAIN_PREDICTIONS).is_file():
        on_train = read_list(output_dir / TRAIN_PREDICTIONS, "evaluate")
        _, train_images = collect(
            read_object(dataset_dir / "annotations" / "instances_train.json", "prepare"), on_train
        )
        found += mistakes.disputed(train_images, "training", thresholds, trusted)
        found.sort(key=mistakes.by_kind)
    facts = words.facts_of(metrics, trained, prepared, names, images, log)
    short = classes
    if len(classes) > _MOST_CLASSES:
        short = classes[:_BEST_AND_WEAKEST] + classes[-_BEST_AND_WEAKEST:]
    verdict = words.verdict(metrics, sums, bool(predictions), facts.held_out)
    gaps = words.annotate_next(sums, counting.gaps(names, images), classes)
    page = render(
        "report.html.jinja",
        facts=facts,
        verdict=verdict,
        advice=words.advice(facts, metrics, trained, log, images, classes, sums),
        gaps=gaps,
        warnings=tables.warning_list(trained),
        tiles=words.tiles(metrics, sums, facts, thresholds, names),
        which=words.which_predictions(thresholds, names),
        classes=tables.class_table(classes),
        short_classes=tables.class_table(short),
        sizes=tables.size_table(sizes, metrics),
        confusion=tables.confusion_table(counting.confusion(images), classes, names),
        balance=balance and charts.balance_chart(balance, thresholds.others),
        overall=_overall(metrics),
        curves=charts.precision_recall_charts(loose, strict, classes, metrics),
        charts=charts.training_charts(log, figures_of(trained, log), facts.best_epoch, facts.measured_on),
        numbers=tables.number_table(metrics),
        pictures=[picture(image, group, dataset_dir, names, links) for image, group in choose(images, max_images)],
        image_total=len(images),
        disputed=mistakes.pictures_of(found, _DISPUTED, dataset_dir, names, links),
        disputed_counts=mistakes.counts(found),
        may_dispute=bool(trusted),
        prepared=tables.prepared_tables(prepared),
        recipe=tables.recipe_table(trained),
        settings=tables.settings_table(trained),
    )
    target = output_dir / "report.html"
    with replacing(target) as temporary:
        # A file name may hold bytes that are not text: they must not cost the page.
        temporary.write_text(page, encoding="utf-8", errors="replace")
    with replacing(output_dir / MISTAKES) as temporary:
        table = mistakes.as_csv(found, names, dataset_dir, links)
        temporary.write_text(table, encoding="utf-8", errors="replace")
    return Report(target, verdict["head"], verdict["body"], gaps, len(found))


def _overall(metrics: dict[str, Any]) -> dict[str, str] | None:
    """The best threshold for all classes together, where the evaluation found one."""
    score, precision, recall, f1 = (
        number(within(metrics, "operating_points", "overall", key)) for key in ("score", "precision", "recall", "f1")
    )
    if score is None or f1 is None:
        return None
    return {"score": f"{score:.2f}", "f1": f"{f1:.2f}", "precision": percent(precision), "recall": percent(recall)}
