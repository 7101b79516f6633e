from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.drawing import write_annotations
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.evaluation.coco_metrics import METRICS, coco_metrics
from trainer.evaluation.evaluate import evaluate
from trainer.training.train import train


@pytest.fixture
def best(config: TrainConfig) -> Path:
    """A checkpoint of two epochs, which has learned next to nothing."""
    return train(config).best_checkpoint


def val_file(config: TrainConfig) -> Path:
    return config.dataset_dir / "annotations" / "instances_val.json"


def test_the_numbers_are_those_of_the_predictions(config: TrainConfig, best: Path):
    result = evaluate(config.dataset_dir, best, batch_size=2, device="cpu")
    content = json.loads(val_file(config).read_text())
    assert list(result.metrics) == list(METRICS)
    assert coco_metrics(content, result.predictions)[0] == result.metrics
    assert (result.images, result.boxes) == (3, 4)
    assert result.class_names == ["nut", "bolt"]
    assert set(result.per_class) == {"nut", "bolt"}
    assert sum(scores["boxes"] for scores in result.per_class.values()) == 4
    assert set(result.per_class["nut"]) == {"AP", "AP50", "AP75", "AR100", "boxes", "images"}


def test_predictions_are_coco_results_in_pixels(config: TrainConfig, best: Path):
    result = evaluate(config.dataset_dir, best, device="cpu")
    assert len(result.predictions) == 3 * config.num_queries
    assert json.loads(json.dumps(result.predictions)) == result.predictions
    for row in result.predictions:
        assert set(row) == {"image_id", "category_id", "bbox", "score"}
        assert row["image_id"] in (100, 101, 102)
        assert row["category_id"] in (4, 17)
        assert 0 <= row["score"] <= 1
    assert max(row["bbox"][0] + row["bbox"][2] for row in result.predictions) > 16


def test_the_evaluation_agrees_with_the_validation_of_the_training(config: TrainConfig, best: Path):
    logged = [json.loads(line) for line in (config.output_dir / "log.jsonl").read_text().splitlines()]
    result = evaluate(config.dataset_dir, best, batch_size=config.batch_size, device="cpu")
    summary = json.loads((config.output_dir / "train.json").read_text())
    row = logged[summary["best_epoch"] - 1]
    for name in METRICS:
        assert result.metrics[name] == pytest.approx(row["val"][name], abs=1e-6)
    stored, now = checkpoint.read(best)["operating_points"], result.operating_points.as_dict()
    assert list(stored["per_class"]) == ["nut", "bolt"]
    assert stored["overall"] == pytest.approx(now["overall"], abs=1e-6)
    for name, point in stored["per_class"].items():
        assert point == pytest.approx(now["per_class"][name], abs=1e-6)


def test_the_evaluation_computes_as_the_run_did(config: TrainConfig, best: Path, tmp_path: Path):
    content = checkpoint.read(best)
    scores = {}
    for precision in ("fp32", "bf16", "fp16"):
        # fp16, and the device, are of another machine.
        content["config"].update(precision=precision, device="cpu" if precision == "bf16" else "cuda:99")
        checkpoint.save(tmp_path / "other.pth", content)
        scores[precision] = [row["score"] for row in evaluate(config.dataset_dir, tmp_path / "other.pth").predictions]
    asked = [row["score"] for row in evaluate(config.dataset_dir, best, precision="bf16").predictions]
    assert scores["fp32"] == scores["fp16"] != scores["bf16"] == asked


def test_classes_are_found_by_name_when_the_ids_have_moved(config: TrainConfig, best: Path):
    before = evaluate(config.dataset_dir, best, device="cpu")
    content = json.loads(val_file(config).read_text())
    # Exchanged: by id, each class would be taken for the other.
    moved = {4: 17, 17: 4}
    for row in content["categories"]:
        row["id"] = moved[row["id"]]
    for row in content["annotations"]:
        row["category_id"] = moved[row["category_id"]]
    write_annotations(config.dataset_dir, "val", content)
    after = evaluate(config.dataset_dir, best, device="cpu")
    assert after.category_ids == [17, 4]
    assert after.metrics == before.metrics
    assert after.per_class == before.per_class


def test_boxes_of_a_class_that_the_model_does_not_know_are_refused(config: TrainConfig, best: Path):
    content = json.loads(val_file(config).read_text())
    content["categories"][0]["name"] = "washer"
    for row in content["annotations"]:
        row["category_id"] = 17
    write_annotations(config.dataset_dir, "val", content)
    with pytest.raises(TrainerError, match="class 'washer', which the model does not know"):
        evaluate(config.dataset_dir, best, device="cpu")


def test_a_split_without_images_is_refused(config: TrainConfig, best: Path):
    content = json.loads(val_file(config).read_text())
    write_annotations(config.dataset_dir, "val", {**content, "images": [], "annotations": []})
    with pytest.raises(TrainerError, match="no images to evaluate on"):
        evaluate(config.dataset_dir, best, device="cpu")
