from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.criterion import SetCriterion
from trainer.data import CocoDetection
from trainer.detr import build_model
from trainer.engine import Averages, predict, train_one_epoch
from trainer.loading import EpochSampler, eval_loader, train_loader
from trainer.transforms import EvalTransform

CPU = torch.device("cpu")


@pytest.fixture
def dataset(dataset_dir: Path) -> CocoDetection:
    return CocoDetection(dataset_dir / "annotations" / "instances_train.json", EvalTransform(64, 64))


def test_averages_weigh_and_survive_a_checkpoint():
    averages = Averages()
    averages.add({"loss": 1.0}, 3)
    copy = Averages()
    copy.load_state_dict(averages.state_dict())
    copy.add({"loss": 5.0}, 1)
    assert copy.means() == {"loss": 2.0}
    assert averages.means() == {"loss": 1.0}
    assert Averages().means() == {}


def test_an_epoch_steps_on_every_batch_and_reports_the_norm_before_clipping(dataset: CocoDetection):
    torch.manual_seed(0)
    model = build_model("detr_tiny", 2, aux_loss=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    seen: list[tuple[dict[str, float], int]] = []
    train_one_epoch(
        model,
        SetCriterion(2),
        optimizer,
        train_loader(dataset, EpochSampler(len(dataset), 6, 0), 0),
        CPU,
        clip_max_norm=0.1,
        before_step=lambda: None,
        after_step=lambda figures, images: seen.append((figures, images)),
    )
    ((figures, images),) = seen
    assert images == 6
    assert figures["grad_norm"] > 0.1
    # Plain gradient descent at rate 1 moves the weights by the clipped gradient.
    moved = torch.cat([(value - before[name]).flatten() for name, value in model.named_parameters()])
    assert moved.norm().item() == pytest.approx(0.1, rel=1e-3)


def test_predicting_changes_nothing_and_covers_every_image(dataset: CocoDetection):
    model = build_model("detr_tiny", 2, num_queries=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows, figures = predict(model, eval_loader(dataset, 4, 0), CPU, [4, 17], criterion=SetCriterion(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [row["image_id"] for row in rows] == [image_id for image_id in dataset.image_ids for _ in range(4)]
    assert figures["loss"] == pytest.approx(
        figures["loss_ce"] + 5 * figures["loss_bbox"] + 2 * figures["loss_giou"], rel=1e-5
    )


def test_labels_without_an_id_are_left_out(dataset: CocoDetection):
    model = build_model("detr_tiny", 2, num_queries=4)
    assert predict(model, eval_loader(dataset, 4, 0), CPU, [-1, -1])[0] == []
