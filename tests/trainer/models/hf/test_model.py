"""What this project adds to a detector of transformers: classes, boxes, masks, sizes and sums."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.models.hf.tiny import CLASSES, save_tiny
from trainer.errors import TrainerError
from trainer.models.hf.model import HFDetector, Outputs, build

pytest.importorskip("transformers")

KINDS = ["detr", "conditional_detr", "deformable_detr", "rt_detr_v2", "d_fine", "rf_detr", "yolos"]
SIZES = torch.tensor([[140, 192], [140, 128]])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives the folder of a tiny detector of a kind, written once."""
    folders: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = save_tiny(kind, tmp_path_factory.mktemp(kind))
        return folders[kind]

    return folder_of


def create(folder: Path, names: list[str] = CLASSES) -> HFDetector:
    model = new(folder, len(names))
    model.load_pretrained("published", names)
    return model.eval()


def new(folder: Path, num_classes: int = 1) -> HFDetector:
    return build({"model": f"hf:{folder}", "num_classes": num_classes})


def batch() -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Two images of 70 x 96 and 70 x 64 px; the second has no object."""
    images = torch.randint(0, 256, (2, 3, 70, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 70, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    objects = {"labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.3, 0.2, 0.2]])}
    nothing = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    return images, mask, [objects, nothing]


def _with_one_group(loss: Any, *args: Any, **kwargs: Any) -> Any:
    config = copy.copy(args[4])
    config.group_detr = 1
    return loss(*args[:4], config, *args[5:], **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_detections_are_the_librarys_own(kind: str, published: Any) -> None:
    import transformers

    model = create(published(kind))
    images = batch()[0][:1, :, :64, :64]
    mask, targets = torch.zeros(1, 64, 64, dtype=torch.bool), batch()[2][:1]
    reference = transformers.AutoModelForObjectDetection.from_pretrained(published(kind))
    reference.config.auxiliary_loss = bool(model.spec["config"].get("auxiliary_loss"))
    processor = transformers.AutoImageProcessor.from_pretrained(published(kind), do_resize=False)
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
    reference.eval()
    with torch.no_grad():
        # RF-DETR's loss looks for the groups of queries that there are in training.
        reference.loss_function = partial(_with_one_group, reference.loss_function)
        expected = reference(pixel_values=pixels, labels=labels)
        outputs = model(images, mask, targets)
        losses = model.losses(outputs, targets, model.normalizers(targets))
    assert losses["loss"].item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert list(losses) == list(model.figures)
    for name in model.figures[1:]:
        assert losses[name].item() == pytest.approx(expected.loss_dict[name].item(), rel=1e-5)

    found = model.detections(outputs, SIZES[:1])[0]
    [theirs] = processor.post_process_object_detection(expected, threshold=0, target_sizes=SIZES[:1])
    count = min(len(found["scores"]), len(theirs["scores"]))
    order, wanted = (answer["scores"].argsort(descending=True)[:count] for answer in (found, theirs))
    torch.testing.assert_close(found["scores"][order], theirs["scores"][wanted])
    limit = SIZES[0].flip(0).repeat(2)
    inside = torch.minimum(theirs["boxes"].clamp(min=0), limit)
    torch.testing.assert_close(found["boxes"][order], inside[wanted], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("kind", ["detr", "d_fine", "rf_detr"])
def test_a_spec_in_plain_values_builds_the_same_model_without_the_folder(kind: str, published: Any) -> None:
    model = create(published(kind), ["nut", "bolt"])
    spec = json.loads(json.dumps(model.spec))
    assert str(published(kind)) not in json.dumps(spec["config"])
    spec["model"] = "hf:/nowhere"
    twin = build(spec).eval()
    twin.load_state_dict(model.state_dict())
    images, mask, _ = batch()
    with torch.no_grad():
        pairs = zip(*(m.detections(m(images, mask), SIZES) for m in (model, twin)), strict=True)
    assert all(torch.equal(mine[name], its[name]) for mine, its in pairs for name in mine)
    assert twin.figures == model.figures


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_reaches_every_weight_with_and_without_objects(kind: str, published: Any) -> None:
    model = create(published(kind)).train()
    images, mask, targets = batch()
    for objects in (targets, [targets[1]] * 2):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images, mask, objects)
        losses = model.losses(outputs, objects, model.normalizers(objects))
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
        losses["loss"].backward()
    idle = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    # Of the library's networks, not all weights have a part in its losses.
    parts = {"rf_detr": ("mask_token",), "deformable_detr": ("enc_output", "_embed.2.")}
    assert all(any(part in name for part in parts.get(kind, ())) for name in idle)
    grouped = model.parameter_groups(SimpleNamespace(lr=1.0, lr_backbone=0.5, weight_decay=0.1))
    assert sum(len(group["params"]) for group in grouped) == sum(w.requires_grad for w in model.parameters())
    assert {group["lr"] for group in grouped} == ({1.0} if kind == "yolos" else {1.0, 0.5})


@pytest.mark.parametrize("kind", ["detr", "deformable_detr", "d_fine"])
def test_losses_of_parts_add_up_to_that_of_the_batch(kind: str, published: Any) -> None:
    model = create(published(kind))
    images, mask, targets = batch()
    both = model.normalizers(targets)

    def loss(chosen: slice) -> Tensor:
        return model.losses(model(images[chosen], mask[chosen], targets[chosen]), targets[chosen], both)["loss"]

    with torch.no_grad():
        torch.testing.assert_close(loss(slice(0, 1)) + loss(slice(1, 2)), loss(slice(0, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "uses_mask"), [("detr", True), ("d_fine", False), ("yolos", False)])
def test_boxes_are_of_the_image_without_its_padding(kind: str, uses_mask: bool, published: Any) -> None:
    model = create(published(kind))
    assert model.uses_mask == uses_mask
    images, mask, targets = batch()
    outputs = model(images, mask, targets)
    asked = torch.stack([label["boxes"][0] for label in outputs.loss_arguments[0][1][:1]])
    # Boxes as the network is asked to give them, back to px of the image.
    answer = Outputs(
        torch.zeros(1, 1, 4 if kind != "d_fine" else 3), asked[None], SIZES[:1] // 2, outputs.padded, ((), {})
    )
    [found] = model.detections(answer, SIZES[:1])
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.4 * 192, 0.3 * 140, 0.6 * 192, 0.7 * 140]]))


@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2"])
def test_rows_of_classes_known_by_name_stay(kind: str, published: Any, caplog: pytest.LogCaptureFixture) -> None:
    import transformers

    reference = transformers.AutoModelForObjectDetection.from_pretrained(published(kind))
    key = {"detr": "class_labels_classifier.weight", "rt_detr_v2": "model.enc_score_head.weight"}[kind]
    before = reference.state_dict()[key]
    # As many classes as before, of which one is known.
    with caplog.at_level(logging.INFO, logger="trainer"):
        model = create(published(kind), ["washer", "Hex Nut", "screw"])
    after = model.network.state_dict()[key]
    assert torch.equal(after[1], before[2])
    torch.testing.assert_close(after[0], before[:3].mean(0))
    assert torch.equal(after[3:], before[3:])
    assert "kept rows for Hex Nut; made anew for washer, screw" in caplog.text


def test_the_license_is_said_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_tiny("detr", tmp_path / "detr")
    with caplog.at_level(logging.INFO, logger="trainer"):
        assert new(folder).spec["license"] == "apache-2.0"
    assert "license of its weights: apache-2.0" in caplog.text
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: house-rules\n---\n", encoding="utf-8")
    assert new(folder).spec["license"] == "house-rules"
    (folder / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    assert new(folder).spec["license"] is None
    (folder / "README.md").unlink()
    assert new(folder).spec["license"] is None


def test_a_frozen_backbone_keeps_weights_and_statistics(published: Any) -> None:
    model = create(published("rt_detr_v2"))
    model.freeze("backbone")
    backbone = model.network.model.backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    rest = SimpleNamespace(lr=0.1, lr_backbone=0.0, weight_decay=0.0)
    optimizer = torch.optim.SGD(model.parameter_groups(rest))
    model.train()
    images, mask, targets = batch()
    losses = model.losses(model(images, mask, targets), targets, model.normalizers(targets))
    losses["loss"].backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    with pytest.raises(TrainerError, match=r"Yolos.* has no backbone"):
        create(published("yolos")).freeze("backbone")


def test_the_library_is_imported_for_its_models_alone() -> None:
    code = (
        "import sys, trainer.training.train, trainer.models.fasterrcnn.model, trainer.models.hf.model;"
        "assert not {'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[4])


def test_what_cannot_be_used_is_refused_in_a_line(
    tmp_path: Path, published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainerError, match=r"hf:.*empty: the folder has no config\.json"):
        new(tmp_path / "empty")
    with pytest.raises(TrainerError, match="no such folder"):
        new(tmp_path / "absent")
    transformers.ResNetConfig().save_pretrained(tmp_path / "resnet")
    with pytest.raises(TrainerError, match="is a resnet, which transformers has no trainable detector for"):
        new(tmp_path / "resnet")
    broken = save_tiny("detr", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(TrainerError, match="the weights cannot be loaded") as caught:
        create(broken)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TrainerError, match=r"^hf: models need `pip install 'cvat-detr\[hf\]'`$"):
        new(published("detr"))
