"""The model as the trainer uses it: outputs, losses, gradients, reproducibility and detections."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchvision.ops import box_convert

from tests.trainer.models.ddq.conftest import Batch, small_model, target
from trainer.errors import TrainerError
from trainer.models.box_ops import iou
from trainer.models.ddq.model import DdqDetector, build


def _losses(model: DdqDetector, batch: Batch) -> dict[str, torch.Tensor]:
    images, mask, targets = batch
    return model.losses(model(images, mask, targets), targets, model.normalizers(targets))


def test_losses_bear_the_names_of_figures_and_add_up(model: DdqDetector, batch: Batch) -> None:
    losses = _losses(model, batch)
    assert tuple(losses) == model.figures
    parts = [value for name, value in losses.items() if name != "loss"]
    torch.testing.assert_close(losses["loss"], torch.stack(parts).sum())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert all(value > 0 for value in parts)


def test_gradient_reaches_every_parameter(model: DdqDetector, batch: Batch) -> None:
    # At first the last layers are zero, and what lies before them gets nothing through them.
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    _losses(model, batch)["loss"].backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
    silent = [name for name, p in trained.items() if not p.grad.any()]
    assert not silent


def test_images_without_objects_have_finite_losses(model: DdqDetector, batch: Batch) -> None:
    images, mask, _ = batch
    nothing = [target() for _ in images]
    losses = _losses(model, (images, mask, nothing))
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_giou"] == losses["loss_denoising"] == 0
    losses["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_more_objects_than_queries_can_be_learned_from(model: DdqDetector, batch: Batch) -> None:
    images, mask, _ = batch
    places = torch.rand(50, 2, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1
    crowd = target(*[(index % 3, float(x), float(y), 0.1, 0.1) for index, (x, y) in enumerate(places)])
    assert _losses(model, (images, mask, [crowd, target(), crowd]))["loss"].isfinite()


@pytest.mark.parametrize("classes", [1, 90])
def test_any_number_of_classes(classes: int, batch: Batch) -> None:
    images, mask, targets = batch
    model = small_model(classes, num_queries=5, denoising_queries=4)
    targets = [{**t, "labels": t["labels"].clamp(max=classes - 1)} for t in targets]
    assert _losses(model, (images, mask, targets))["loss"].isfinite()
    found = model.eval().detections(model(images, mask), torch.tensor([[96, 128], [96, 90], [96, 128]]))
    assert all(((f["labels"] >= 0) & (f["labels"] < classes)).all() for f in found)


def test_losses_of_parts_add_up_to_the_loss_of_the_batch(batch: Batch) -> None:
    model = small_model(denoising_queries=0)
    images, mask, targets = batch
    whole = model.losses(model(images, mask, targets), targets, model.normalizers(targets))["loss"]
    parts = [
        model.losses(model(images[i], mask[i], targets[i]), targets[i], model.normalizers(targets))["loss"]
        for i in (slice(0, 2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-5)


def test_same_random_state_same_losses(model: DdqDetector, batch: Batch) -> None:
    values = []
    for _ in range(2):
        torch.manual_seed(5)
        values.append(_losses(model, batch))
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])
    assert not torch.equal(_losses(model, batch)["loss_denoising"], values[0]["loss_denoising"])


def test_bfloat16_stays_near_float32(model: DdqDetector, batch: Batch) -> None:
    images, mask, targets = batch
    torch.manual_seed(5)
    exact = _losses(model, batch)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images, mask, targets)
    losses = model.losses(outputs, targets, model.normalizers(targets))
    assert losses["loss"].dtype == torch.float32
    torch.testing.assert_close(losses["loss"], exact["loss"], rtol=0.1, atol=0)


def test_spec_rebuilds_the_same_module(model: DdqDetector, batch: Batch) -> None:
    images, mask, _ = batch
    spec = json.loads(json.dumps(model.spec))
    again = build(spec)
    again.load_state_dict(model.state_dict())
    assert again.spec == model.spec
    ours, theirs = model.eval()(images, mask), again.eval()(images, mask)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.boxes, theirs.boxes)


def test_padding_hardly_changes_what_is_found(model: DdqDetector, batch: Batch) -> None:
    images, mask, _ = batch
    model.eval()
    with torch.no_grad():
        alone = model(images[1:2, :, :, :90], mask[1:2, :, :90]).dense
        padded = model(images, mask).dense
    # The same cells of the three levels of 12 x 16 and of 12 x 12 cells, and so on; the padding has none.
    place = (padded.cells.centres < torch.tensor([96.0, 96.0])).all(1)
    torch.testing.assert_close(padded.cells.centres[place], alone.cells.centres)
    assert torch.equal(padded.inside[1, place], alone.inside[0])
    assert not padded.inside[1, ~place].any()
    # Convolutions at the edge see zeros in one case and what the network makes of padding in the other.
    ours, theirs = (
        dense.boxes[image, cells][alone.inside[0]]
        for dense, image, cells in ((padded, 1, place), (alone, 0, slice(None)))
    )
    assert float(iou(ours, theirs).mean()) > 0.95
    difference = (padded.logits[1, place] - alone.logits[0])[alone.inside[0]]
    assert float(difference.abs().mean()) < 0.05


def test_detections_lie_in_the_image_best_first(model: DdqDetector, batch: Batch) -> None:
    images, mask, _ = batch
    sizes = torch.tensor([[192, 256], [192, 180], [300, 400]])
    for found, (height, width) in zip(model.eval().detections(model(images, mask), sizes), sizes.tolist(), strict=True):
        assert 0 < len(found["scores"]) <= model.settings.num_queries
        assert found["scores"].diff().max() <= 0
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_it_finds_two_images_by_heart(model: DdqDetector, batch: Batch) -> None:
    images, mask, targets = (part[:2] for part in batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    torch.manual_seed(0)
    for _ in range(100):
        optimizer.zero_grad()
        _losses(model, (images, mask, targets))["loss"].backward()
        optimizer.step()
    found = model.eval().detections(model(images, mask), torch.tensor([[96, 128], [96, 90]]))
    for image, wanted, width in zip(found, targets, (128, 90), strict=True):
        truth = box_convert(wanted["boxes"], "cxcywh", "xyxy") * torch.tensor([width, 96, width, 96])
        count = len(truth)
        overlaps = iou(truth[:, None], image["boxes"][None, :count])
        assert float(overlaps.amax(1).min()) > 0.7
        assert sorted(image["labels"][:count].tolist()) == sorted(wanted["labels"].tolist())


def test_a_frozen_part_keeps_weights_and_statistics(batch: Batch) -> None:
    model = small_model(frozen_norm=False)
    model.freeze("backbone")
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.train()
    _losses(model, batch)["loss"].backward()
    config = SimpleNamespace(lr=1e-3, lr_backbone=1e-3, weight_decay=0.1)
    torch.optim.AdamW(model.parameter_groups(config)).step()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_each_parameter_is_in_one_group(model: DdqDetector) -> None:
    groups = model.parameter_groups(SimpleNamespace(lr=1.0, lr_backbone=0.5, weight_decay=0.1))
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in model.backbone.parameters() if p.requires_grad} == {0.5}
    assert {rates[id(p)] for p in model.decoder.parameters()} == {1.0}


def test_rows_of_known_classes_are_kept(model: DdqDetector, tmp_path: Path) -> None:
    for name, value in model.named_parameters():
        if ".class_embed.bias" in name:
            torch.nn.init.uniform_(value)
    file = tmp_path / "best.pth"
    content = {"model": model.state_dict(), "class_names": ["cat", "Red Fox", "dog"], "family": "ddq"}
    torch.save({**content, "spec": model.spec}, file)
    other = small_model(2)
    other.load_pretrained(str(file), ["red_fox", "bear"])
    for ours, theirs in ((other.dense_head, model.dense_head), (other.decoder[0], model.decoder[0])):
        assert ours.class_embed.bias[0] == theirs.class_embed.bias[1]
        torch.testing.assert_close(ours.class_embed.bias[1], theirs.class_embed.bias.mean())
    assert torch.equal(other.neck.lateral[0][0].weight, model.neck.lateral[0][0].weight)
    with pytest.raises(TrainerError, match="of other sizes: see its neck"):
        small_model(2, dim=64).load_pretrained(str(file), ["red_fox", "bear"])
    torch.save({**content, "spec": {"model": "detr_resnet50"}, "family": "detr"}, file)
    with pytest.raises(TrainerError, match="is a checkpoint of detr_resnet50, not of ddq_lite0; set model"):
        other.load_pretrained(str(file), ["red_fox", "bear"])


def test_imagenet_weights_fit(model: DdqDetector) -> None:
    before = model.backbone.body.stem.conv.weight.clone()
    model.load_pretrained("imagenet", None)
    assert not torch.equal(model.backbone.body.stem.conv.weight, before)
