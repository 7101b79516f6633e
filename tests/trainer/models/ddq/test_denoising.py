"""Denoising queries: whose they are, how noisy, and that nothing else sees them."""

from __future__ import annotations

import torch
from torchvision.ops import box_convert

from tests.trainer.models.ddq.conftest import Batch, target
from trainer.models.box_ops import iou
from trainer.models.ddq.decoder import DecoderLayer
from trainer.models.ddq.denoising import make_denoising, nearest_cells
from trainer.models.ddq.dense_head import cells_of
from trainer.models.ddq.model import DdqDetector
from trainer.models.ddq.targets import pad_targets

CELLS = cells_of([(12, 16), (6, 8), (3, 4)], (8, 16, 32), torch.zeros(1))
SIZES = torch.tensor([[128.0, 96.0], [128.0, 96.0]])
TARGETS = pad_targets(
    [target((0, 0.3, 0.4, 0.3, 0.5), (2, 0.7, 0.6, 0.1, 0.1)), target((1, 0.5, 0.5, 0.9, 0.9))], SIZES
)


def test_near_copies_overlap_more_than_far_ones() -> None:
    torch.manual_seed(0)
    noisy = make_denoising(TARGETS, CELLS, most=400)
    assert noisy is not None
    assert noisy.groups == 100
    assert noisy.boxes.shape == (2, 400, 4)
    truth = TARGETS.boxes.gather(1, noisy.object[..., None].expand(-1, -1, 4))
    overlaps = iou(box_convert(noisy.boxes, "cxcywh", "xyxy"), truth)
    near, far = (overlaps[noisy.present & which] for which in (noisy.near, ~noisy.near))
    assert near.min() > 0.35
    assert far.mean() < 0.35 < near.mean()
    # The second image has one object: half of its queries stand for none.
    assert noisy.present.sum(1).tolist() == [400, 200]
    assert noisy.object[1][noisy.present[1]].eq(0).all()
    assert (noisy.boxes[..., 2:] > 0).all()


def test_each_group_has_each_object_near_and_far() -> None:
    noisy = make_denoising(TARGETS, CELLS, most=9)
    assert noisy is not None
    assert noisy.groups == 2
    for group in range(2):
        rows = slice(4 * group, 4 * group + 4)
        assert sorted(zip(noisy.object[0, rows].tolist(), noisy.near[0, rows].tolist(), strict=True)) == [
            (0, False), (0, True), (1, False), (1, True),
        ]  # fmt: skip


def test_too_many_objects_are_drawn_from() -> None:
    noisy = make_denoising(TARGETS, CELLS, most=3)
    assert noisy is not None
    assert noisy.boxes.shape == (2, 2, 4)
    assert noisy.present.all()


def test_nothing_to_denoise() -> None:
    assert make_denoising(TARGETS, CELLS, most=0) is None
    assert make_denoising(pad_targets([target(), target()], SIZES), CELLS, most=10) is None


def test_a_box_belongs_to_the_cell_at_its_centre_on_the_level_of_its_size() -> None:
    boxes = torch.tensor([[[21.0, 44.0, 40.0, 40.0], [70.0, 40.0, 100.0, 90.0], [120.0, 80.0, 200.0, 200.0]]])
    cells = nearest_cells(boxes, CELLS)[0]
    assert CELLS.strides[cells].tolist() == [8.0, 16.0, 32.0]
    assert CELLS.centres[cells].tolist() == [[20.0, 44.0], [72.0, 40.0], [112.0, 80.0]]


def test_queries_say_the_same_with_and_without_denoising(model: DdqDetector, batch: Batch) -> None:
    images, mask, targets = batch
    for layer in model.decoder:
        assert isinstance(layer, DecoderLayer)
        torch.nn.init.normal_(layer.box_embed[-1].weight, std=0.1)
    with_noise, without = model(images, mask, targets), model(images, mask)
    count = without.logits.shape[2]
    assert with_noise.logits.shape[2] > count
    torch.testing.assert_close(with_noise.boxes[:, :, :count], without.boxes, rtol=1e-3, atol=1e-2)
