"""What this project adds to torchvision's Faster R-CNN: images, boxes, labels, losses and weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.models.fasterrcnn.model import FIGURES, FasterRCNNDetector, build

SIZES = torch.tensor([[140, 192], [140, 128]])


def small(**more: Any) -> FasterRCNNDetector:
    torch.manual_seed(0)
    return build({"model": "fasterrcnn_lite0", "num_classes": 2, "score_threshold": 0.0, **more})


def batch() -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Two images of 70 x 96 and 70 x 64 px; the second has no object."""
    images = torch.randint(0, 256, (2, 3, 70, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 70, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    objects = {"labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.3, 0.2, 0.2]])}
    nothing = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    return images, mask, [objects, nothing]


def test_losses_and_detections_are_torchvisions_without_a_second_resize() -> None:
    torch.manual_seed(0)
    model = build({"model": "fasterrcnn_resnet50", "num_classes": 2, "score_threshold": 0.05, "frozen_norm": True})
    reference = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96)
    reference.load_state_dict(model.state_dict(), strict=False)
    image = batch()[0][:1, :, :64, :]
    mask, [target] = torch.zeros(1, 64, 96, dtype=torch.bool), batch()[2][:1]
    boxes = torch.tensor([[38.4, 19.2, 57.6, 44.8], [19.2, 12.8, 38.4, 25.6]])
    model.train()
    reference.train()
    # Fresh norms in the reference would follow the batch.
    reference.backbone.eval()
    torch.manual_seed(0)
    expected = reference([image[0] / 255], [{"boxes": boxes, "labels": target["labels"] + 1}])
    torch.manual_seed(0)
    torch.empty(1).uniform_()  # torchvision's resize draws one of its sizes.
    losses = model.losses(model(image, mask, [target]), [target], model.normalizers([target]))
    assert tuple(losses) == FIGURES
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss"], torch.stack(list(expected.values())).sum(), rtol=1e-4, atol=1e-5)

    model.eval()
    reference.eval()
    with torch.no_grad():
        [wanted] = reference([image[0] / 255])
        [found] = model.detections(model(image, mask), torch.tensor([[128, 192]]))
    torch.testing.assert_close(found["boxes"], 2 * wanted["boxes"], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found["scores"], wanted["scores"], rtol=1e-3, atol=1e-4)
    assert torch.equal(found["labels"] + 1, wanted["labels"])


def test_a_step_reaches_every_weight_with_and_without_objects() -> None:
    model = small().train()
    images, mask, targets = batch()
    for objects in (targets, [targets[1]] * 2):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images, mask, objects)
        losses = model.losses(outputs, objects, model.normalizers(objects))
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
        losses["loss"].backward()
    assert all(weight.grad is not None for weight in model.parameters())
    groups = model.parameter_groups(SimpleNamespace(lr=1.0, lr_backbone=0.5, weight_decay=0.1))  # type: ignore[arg-type]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    slow = [weight for group in groups if group["lr"] == 0.5 for weight in group["params"]]
    assert {id(weight) for weight in slow} == {id(weight) for weight in model.backbone.body.parameters()}


def test_validation_losses_repeat_and_leave_no_trace() -> None:
    model = small().eval()
    images, mask, targets = batch()
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    with torch.no_grad():
        first, again = (model.losses(model(images, mask), targets, model.normalizers(targets)) for _ in range(2))
    assert tuple(first) == FIGURES
    assert all(torch.equal(first[name], again[name]) for name in FIGURES)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_parts_of_a_batch_have_their_share_of_the_loss() -> None:
    model = small().eval()
    images, mask, targets = batch()
    both = model.normalizers(targets)
    with torch.no_grad():
        whole = model.losses(model(images, mask), targets, both)["loss"]
        parts = [
            model.losses(model(images[i : i + 1], mask[i : i + 1]), targets[i : i + 1], both)["loss"] for i in (0, 1)
        ]
    # The samples differ, as random numbers are drawn image by image.
    torch.testing.assert_close(sum(parts), whole, rtol=0.1, atol=0.05)


def test_boxes_are_of_the_image_without_its_padding() -> None:
    model = small().eval()
    images, mask, _ = batch()
    with torch.no_grad():
        outputs = model(images, mask)
        found = model.detections(outputs, SIZES)
        alone = model.detections(model(images[1:, :, :, :64], mask[1:, :, :64]), SIZES[1:])
    assert (found[1]["boxes"] <= torch.tensor([128, 140, 128, 140])).all()
    assert set(torch.cat([image["labels"] for image in found]).tolist()) <= {0, 1}
    # As without padding, but for what the convolutions see at the edge.
    assert abs(len(found[1]["scores"]) - len(alone[0]["scores"])) < 20


def test_a_spec_in_plain_values_builds_the_same_model() -> None:
    model = small(nms_iou=0.4).eval()
    model.freeze_norm(eps=0.0)
    twin = build(json.loads(json.dumps(model.spec))).eval()
    twin.load_state_dict(model.state_dict())
    images, mask, _ = batch()
    with torch.no_grad():
        pairs = zip(*(m.detections(m(images, mask), SIZES) for m in (model, twin)), strict=True)
    assert all(torch.equal(mine[key], its[key]) for mine, its in pairs for key in mine)
    assert [w.requires_grad for w in twin.parameters()] == [w.requires_grad for w in model.parameters()]


def test_imagenet_weights_keep_their_normalisation() -> None:
    model = small()
    model.load_pretrained("imagenet", ["nut", "bolt"])
    assert model.spec["frozen_norm"]
    assert any(isinstance(module, FrozenBatchNorm2d) for module in model.backbone.body.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    kept = [weight.requires_grad for weight in model.backbone.body.stage1.parameters()]
    assert kept
    assert not any(kept)
    with pytest.raises(TrainerError, match="no COCO weights for fasterrcnn_lite0"):
        model.load_pretrained("coco", ["nut", "bolt"])
    with pytest.raises(TrainerError, match="absent is not a checkpoint"):
        model.load_pretrained("absent", ["nut", "bolt"])


def test_coco_weights_keep_the_rows_of_known_classes_and_their_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    published = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    (tmp_path / "checkpoints").mkdir()
    torch.save(published.state_dict(), tmp_path / "checkpoints" / Path(entry.url).name)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    model = build({"model": "fasterrcnn_resnet50", "num_classes": 2})
    model.load_pretrained("coco", ["nut", "Person"])
    before, after = published.roi_heads.box_predictor, model.roi_heads.box_predictor
    assert torch.equal(after.cls_score.weight[[0, 2]], before.cls_score.weight[[0, 1]])
    assert torch.equal(after.bbox_pred.weight[8:], before.bbox_pred.weight[4:8])
    assert {module.eps for module in model.modules() if isinstance(module, FrozenBatchNorm2d)} == {0.0}
    trains = {
        name.split(".")[2] for name, weight in model.named_parameters() if weight.requires_grad and ".body." in name
    }
    assert trains == {"layer2", "layer3", "layer4"}


def test_rows_of_classes_known_by_name_stay(tmp_path: Path) -> None:
    first = small()
    content = {"model": first.state_dict(), "family": "fasterrcnn", "spec": first.spec, "class_names": ["nut", "bolt"]}
    checkpoint.save(tmp_path / "start.pth", content)
    model = small(num_classes=3)
    model.load_pretrained(str(tmp_path / "start.pth"), ["washer", "Bolt", "screw"])
    before, after = first.roi_heads.box_predictor, model.roi_heads.box_predictor
    assert torch.equal(after.cls_score.weight[[0, 2]], before.cls_score.weight[[0, 2]])
    torch.testing.assert_close(after.cls_score.weight[1], before.cls_score.weight[1:].mean(0))
    assert torch.equal(after.bbox_pred.weight[8:12], before.bbox_pred.weight[8:12])
    assert torch.equal(after.bbox_pred.bias[:4], before.bbox_pred.bias[:4])
    assert torch.equal(model.rpn.head.cls_logits.weight, first.rpn.head.cls_logits.weight)


def test_a_frozen_backbone_keeps_weights_and_statistics() -> None:
    model = small()
    model.freeze("backbone")
    model.train()
    before = {name: value.clone() for name, value in model.backbone.body.state_dict().items()}
    images, mask, targets = batch()
    losses = model.losses(model(images, mask, targets), targets, model.normalizers(targets))
    losses["loss"].backward()
    assert all(weight.grad is None for weight in model.backbone.body.parameters())
    assert all(weight.grad is not None for weight in model.backbone.fpn.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.body.state_dict().items())
