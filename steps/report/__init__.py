"""The page that an engineer opens after a training run: `report.html`, one file with everything inside.

The page answers, in this order: is the model any good, which classes, sizes and images does it fail on, how did
the training go, and what happened to the data on the way. Charts are SVG drawn by matplotlib, images are JPEG
thumbnails with the boxes drawn over them as SVG; nothing is loaded from anywhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.common.files import replacing
from steps.report import charts, counting, tables, words
from steps.report.formats import percent
from steps.report.matching import collect, match
from steps.report.pictures import choose, picture
from steps.report.reading import figures_of, read_list, read_log, read_object, read_optional

# jinja2 is imported where it is used: a pod that only moves files has none.

_MOST_CLASSES, _BEST_AND_WEAKEST = 40, 15


def write_report(dataset_dir: Path, output_dir: Path, *, max_images: int = 24, score_threshold: float = 0.5) -> Path:
    """Write `output_dir/report.html` and return its path.

    Reads `dataset_dir/annotations/instances_val.json` and the images that it names,
    `output_dir/metrics.json` and `output_dir/predictions.json`; and, where they exist,
    `dataset_dir/prepare_report.json`, `output_dir/train.json` and `output_dir/log.jsonl`. The same inputs
    give the same bytes.

    Args:
        dataset_dir: what the prepare step wrote.
        output_dir: what the train and evaluate steps wrote; the page goes there.
        max_images: how many validation images to show at most.
        score_threshold: score from which a prediction counts.

    Raises:
        StepError: a file that the page cannot do without is missing or is not JSON of the expected kind.
    """
    annotations = read_object(dataset_dir / "annotations" / "instances_val.json", "prepare")
    metrics = read_object(output_dir / "metrics.json", "evaluate")
    predictions = read_list(output_dir / "predictions.json", "evaluate")
    prepared = read_optional(dataset_dir / "prepare_report.json")
    trained = read_optional(output_dir / "train.json")
    log = read_log(output_dir / "log.jsonl")

    names, images = collect(annotations, predictions)
    for image in images:
        match(image, score_threshold)
    classes = counting.class_rows(names, images, metrics, prepared)
    sizes = counting.size_rows(images)
    balance = counting.balance(images)
    loose, strict = (counting.precision_by_class(images, strict=strict) for strict in (False, True))
    facts = words.facts_of(metrics, trained, prepared, names, images, log)
    short = classes
    if len(classes) > _MOST_CLASSES:
        short = classes[:_BEST_AND_WEAKEST] + classes[-_BEST_AND_WEAKEST:]
    page = _render(
        facts=facts,
        verdict=words.verdict(metrics, bool(predictions), facts.held_out),
        advice=words.advice(facts, metrics, trained, log, images, classes, balance, score_threshold),
        warnings=tables.warning_list(trained),
        tiles=words.tiles(metrics, images, facts, score_threshold),
        threshold=f"{score_threshold:.2f}",
        classes=tables.class_table(classes),
        short_classes=tables.class_table(short),
        sizes=tables.size_table(sizes, metrics),
        confusion=tables.confusion_table(counting.confusion(images), classes, names),
        balance=balance and _balance(balance),
        curves=charts.precision_recall_charts(loose, strict, classes, metrics),
        charts=charts.training_charts(log, figures_of(trained, log), facts.best_epoch, facts.measured_on),
        numbers=tables.number_table(metrics),
        pictures=[
            picture(image, group, dataset_dir, names, score_threshold) for image, group in choose(images, max_images)
        ],
        image_total=len(images),
        prepared=tables.prepared_tables(prepared),
        recipe=tables.recipe_table(trained),
        settings=tables.settings_table(trained),
    )
    target = output_dir / "report.html"
    with replacing(target) as temporary:
        # A file name may hold bytes that are not text: they must not cost the page.
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return target


def _balance(found: counting.Balance) -> dict[str, str]:
    return {
        "svg": charts.balance_chart(found),
        "score": f"{found.score:.2f}",
        "f1": f"{found.f1:.2f}",
        "precision": percent(found.precision[found.best]),
        "recall": percent(found.best_recall),
    }


def _render(**values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(**values)
