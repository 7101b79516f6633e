"""The model card: what a stranger needs to know before using a model (Mitchell et al. 2019, arXiv 1810.03993)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from steps.common.files import replacing
from steps.report.reading import number, read_optional, within

NOT_MEASURED = "-"


def write_model_card(path: Path, content: dict[str, Any], run: Path, files: Sequence[str]) -> None:
    """Write `model_card.md`, from the checkpoint and from what the steps left in the run's folder.

    Args:
        path: of the card.
        content: of the checkpoint.
        run: folder with `train.json` and `metrics.json`; what is missing there is left open.
        files: names of the exported files beside the card.
    """
    # Kept out of the module, as it needs torch.
    from trainer.export.origin import initial_weights

    trained, metrics = read_optional(run / "train.json"), read_optional(run / "metrics.json")
    weights, licence = initial_weights(content)
    overall = metrics or content.get("metrics") or {}
    points = content.get("operating_points") or within(metrics, "operating_points") or {}
    rows = []
    for name, id_ in zip(content["class_names"], content["category_ids"], strict=True):
        measured, point = within(metrics, "per_class", name) or {}, within(points, "per_class", name) or {}
        scores = [measured.get(key) for key in ("AP", "AP50")]
        rows.append([name, id_, measured.get("boxes"), *scores, *(point.get(key) for key in _POINT)])
    sections = [
        f"# {content.get('model_name') or 'detector'}",
        f"Finds {len(rows)} class{'es' * (len(rows) != 1)} of objects in photographs and gives a box and a score for"
        " each. Trained by cvat-detr on annotations from CVAT.",
        "## Files",
        "\n".join(f"- `{name}`" for name in files),
        "## Data",
        _table(
            ["", "images", "boxes"],
            (
                [label, within(trained, "images", part), within(trained, "boxes", part)]
                for label, part in (("training", "train"), ("validation", "val"))
            ),
        ),
        "## Quality",
        "On the validation images, of which training saw none unless the report says otherwise. COCO's numbers,"
        " 0 to 1.",
        _table(list(_HEADLINE), [[overall.get(name) for name in _HEADLINE]]),
        "## Classes and operating points",
        "A prediction counts from the threshold of its class on, where F1 on the validation images was best.",
        _table(["class", "id", "validation boxes", "AP", "AP50", "threshold", "precision", "recall", "F1"], rows),
        "All classes together:",
        _table(
            ["", "threshold", "precision", "recall", "F1"],
            (
                [what, *(within(points, which, key) for key in _POINT)]
                for what, which in (("each class under its own", "combined"), ("one threshold for all", "overall"))
            ),
        ),
        "## Input",
        f"RGB, upright; the shorter side scaled to {content['image_size']} px, or less where the longer would pass"
        f" {content['max_size']} px.",
        "## Licence",
        f"Initial weights: {weights}. Their licence: {licence}. The trained weights also depend on the images and"
        " annotations that they were trained on, whose terms only their owner knows.",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


_HEADLINE = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100")
_POINT = ("score", "precision", "recall", "f1")


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("|", r"\|")
    known = number(value)
    # COCO's word for "nothing of that size here" is -1.
    if known is None or known < 0:
        return NOT_MEASURED
    return str(value) if isinstance(value, int) else f"{known:.3f}"
