from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.building import build_model, random_images
from trainer.errors import TrainerError
from trainer.models.detr.model import DETR, post_process


def resnet50_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a ResNet-50 without its classifier, in torchvision's scheme."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    norm("bn1", 64)
    incoming = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for conv, (out, into, kernel) in enumerate(
                ((width, incoming, 1), (width, width, 3), (4 * width, width, 1)), start=1
            ):
                shapes[f"{name}.conv{conv}.weight"] = (out, into, kernel, kernel)
                norm(f"{name}.bn{conv}", out)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, incoming, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            incoming = 4 * width
    return shapes


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the authors' DETR-R50 checkpoint."""
    shapes = {f"backbone.0.body.{name}": shape for name, shape in resnet50_shapes().items()}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (256,)

    def attention(name: str) -> None:
        shapes[f"{name}.in_proj_weight"], shapes[f"{name}.in_proj_bias"] = (768, 256), (768,)
        linear(f"{name}.out_proj", 256, 256)

    for part, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
        for index in range(6):
            layer = f"transformer.{part}.layers.{index}"
            for name in attentions:
                attention(f"{layer}.{name}")
            linear(f"{layer}.linear1", 2048, 256)
            linear(f"{layer}.linear2", 256, 2048)
            for number in range(1, len(attentions) + 2):
                norm(f"{layer}.norm{number}")
    norm("transformer.decoder.norm")
    linear("class_embed", 92, 256)
    for index, out in enumerate((256, 256, 4)):
        linear(f"bbox_embed.layers.{index}", out, 256)
    shapes["query_embed.weight"] = (100, 256)
    shapes["input_proj.weight"], shapes["input_proj.bias"] = (256, 2048, 1, 1), (256,)
    return shapes


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    return build_model("detr_resnet50", num_classes=91, frozen_norm=True)


def test_r50_has_the_authors_names_and_shapes(resnet50):
    own = {name: tuple(weight.shape) for name, weight in resnet50.state_dict().items()}
    assert own == official_shapes()


def test_r50_has_the_authors_number_of_parameters(resnet50):
    assert sum(parameter.numel() for parameter in resnet50.parameters()) == 41_524_768
    # The stem and the first stage are not trained: 9,408 and 212,992 weights.
    trained = sum(parameter.numel() for parameter in resnet50.parameters() if parameter.requires_grad)
    assert trained == 41_524_768 - 9_408 - 212_992


def test_trained_normalisation_reads_the_authors_weights(resnet50):
    with torch.device("meta"):
        model = build_model("detr_resnet50", num_classes=91, frozen_norm=False)
    assert isinstance(model.backbone[0].body.bn1, nn.BatchNorm2d)
    model.load_state_dict(resnet50.state_dict(), strict=True, assign=True)


@pytest.mark.parametrize(
    ("name", "blocks", "stride"),
    [("detr_resnet50_dc5", 6, 1), ("detr_resnet101", 23, 2), ("detr_resnet101_dc5", 23, 1)],
)
def test_the_other_models_differ_in_depth_and_dilation(name, blocks, stride):
    with torch.device("meta"):
        model = build_model(name, num_classes=91, frozen_norm=True)
    body = model.backbone[0].body
    assert len(body.layer3) == blocks
    assert body.layer4[0].conv2.stride == (stride, stride)
    assert sum(p.numel() for p in model.parameters()) == (41_524_768 if blocks == 6 else 60_464_672)


def test_outputs_of_the_small_model():
    model = build_model("detr_tiny", num_classes=3, num_queries=7, aux_loss=True).eval()
    outputs = model(random_images(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool))
    assert outputs["pred_logits"].shape == (2, 7, 4)
    assert outputs["pred_boxes"].shape == (2, 7, 4)
    assert outputs["pred_boxes"].min() >= 0
    assert outputs["pred_boxes"].max() <= 1
    assert len(outputs["aux_outputs"]) == len(model.transformer.decoder.layers) - 1
    for layer in outputs["aux_outputs"]:
        assert layer["pred_logits"].shape == (2, 7, 4)
        assert layer["pred_boxes"].shape == (2, 7, 4)
        assert not torch.equal(layer["pred_logits"], outputs["pred_logits"])
    model.aux_loss = False
    assert "aux_outputs" not in model(random_images(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))


def test_what_lies_beside_an_image_in_the_batch_does_not_change_its_predictions():
    # That padded cells count for nothing is tested on the transformer: through the convolutions, zeros next
    # to an image are not quite the same as its end, in the authors' model as in this one.
    torch.manual_seed(0)
    model = build_model("detr_tiny", num_classes=3).eval()
    batch, mask = torch.zeros(2, 3, 96, 96, dtype=torch.uint8), torch.zeros(2, 96, 96, dtype=torch.bool)
    batch[0, :, :64, :64] = random_images(3, 64, 64)
    mask[0] = True
    mask[0, :64, :64] = False
    with torch.no_grad():
        first = model(batch, mask)
        batch[1] = random_images(3, 96, 96)
        second = model(batch, mask)
        unmasked = model(batch, torch.zeros_like(mask))
    for name in ("pred_logits", "pred_boxes"):
        assert torch.allclose(first[name][0], second[name][0], atol=1e-5)
        assert not torch.allclose(first[name][1], second[name][1], atol=1e-3)
        assert not torch.allclose(first[name][0], unmasked[name][0], atol=1e-3)


def test_random_weights_follow_the_seed():
    def head() -> torch.Tensor:
        torch.manual_seed(3)
        return build_model("detr_tiny", num_classes=2).class_embed.weight

    assert torch.equal(head(), head())


def test_an_unknown_model_is_named():
    with pytest.raises(TrainerError, match="'detr_huge'"):
        build_model("detr_huge", num_classes=2)


def test_post_process_gives_pixels_and_never_no_object():
    logits = torch.tensor([[[2.0, 1.0, 9.0], [0.0, 3.0, 0.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.25], [0.25, 0.5, 0.1, 0.2]]])
    (found,) = post_process({"pred_logits": logits, "pred_boxes": boxes}, torch.tensor([[100, 200]]))
    assert found["labels"].tolist() == [0, 1]
    probabilities = logits.softmax(-1)
    assert found["scores"].tolist() == [probabilities[0, 0, 0].item(), probabilities[0, 1, 1].item()]
    assert torch.allclose(found["boxes"], torch.tensor([[50.0, 37.5, 150.0, 62.5], [40.0, 40.0, 60.0, 60.0]]))


def test_sizes_other_than_the_model_s_own():
    sizes = {"hidden_dim": 64, "nheads": 4, "enc_layers": 1, "dec_layers": 2, "dim_feedforward": 96, "pre_norm": False}
    model = build_model("detr_tiny", 2, aux_loss=True, **sizes, position_embedding="learned")
    assert len(model.transformer.encoder.layers) == 1
    assert model.transformer.encoder.layers[0].linear1.weight.shape == (96, 64)
    assert "backbone.1.row_embed.weight" in model.state_dict()
    outputs = model(random_images(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))
    assert len(outputs["aux_outputs"]) == 1


def test_sizes_that_contradict_each_other_are_refused_in_a_line():
    with pytest.raises(TrainerError, match=r"^detr_tiny: nheads 3 does not divide hidden_dim 128"):
        build_model("detr_tiny", 2, nheads=3)


def padded_batch(device: str = "cpu") -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Two images, the second padded, with three objects and none."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8, generator=generator)
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, 50:], mask[1, :, 70:] = True, True
    boxes = 0.2 + 0.4 * torch.rand(3, 4, generator=generator)
    targets = [
        {"labels": torch.tensor([0, 2, 1]), "boxes": boxes},
        {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)},
    ]
    moved = [{name: value.to(device) for name, value in target.items()} for target in targets]
    return images.to(device), mask.to(device), moved


def trained_losses(model: DETR, dtype: torch.dtype | None = None, device: str = "cpu") -> dict[str, Tensor]:
    """The losses of a step of training, whose gradients are left on the model."""
    torch.manual_seed(1)
    images, mask, targets = padded_batch(device)
    with torch.autocast(device, dtype, enabled=dtype is not None):
        outputs = model.train()(images, mask, targets)
    losses = model.losses(outputs, targets, model.normalizers(targets))
    losses["loss"].backward()
    return losses


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_in_half_precision_are_float32_and_close(dtype):
    torch.manual_seed(0)
    model = build_model("detr_tiny", num_classes=3, num_queries=8, aux_loss=True)
    half = copy.deepcopy(model)
    wanted, found = trained_losses(model), trained_losses(half, dtype)
    for name, loss in wanted.items():
        assert found[name].dtype == torch.float32
        if name.startswith("loss"):
            assert found[name].item() == pytest.approx(loss.item(), rel=0.05), name
    for (name, full), reduced in zip(model.named_parameters(), half.parameters(), strict=True):
        assert torch.isfinite(reduced.grad).all(), name
        assert reduced.grad.dtype == full.dtype


def test_predictions_are_float32_in_half_precision():
    model = build_model("detr_tiny", num_classes=3).eval()
    images, mask, _ = padded_batch()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        outputs = model(images, mask)
    assert outputs["pred_boxes"].dtype == outputs["pred_logits"].dtype == torch.float32


def test_a_step_repeats_to_the_bit():
    torch.manual_seed(0)
    model = build_model("detr_tiny", num_classes=3, dropout=0.1, aux_loss=True)
    twin = copy.deepcopy(model)
    first, second = trained_losses(model), trained_losses(twin)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_step_waits_for_the_gpu_once(dtype):
    torch.manual_seed(0)
    model = build_model("detr_tiny", num_classes=3, num_queries=8, dropout=0.1, aux_loss=True)
    wanted = trained_losses(copy.deepcopy(model).eval())["loss_ce"].item()
    model.cuda()
    assert trained_losses(model, dtype, "cuda")["loss_ce"].item() == pytest.approx(wanted, rel=0.2)
    images, mask, targets = padded_batch("cuda")
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with torch.autocast("cuda", dtype, enabled=dtype is not None):
                outputs = model(images, mask, targets)
            model.losses(outputs, targets, model.normalizers(targets))["loss"].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchroniz" in str(wait.message)]) == 1
