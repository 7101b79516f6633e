"""The trainer held against `reference`, which shares no code with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer import reference
from tests.trainer.building import build_model, losses_of, random_images
from trainer.models.detr.criterion import FIGURES, SetCriterion
from trainer.models.detr.matcher import HungarianMatcher
from trainer.models.detr.model import post_process
from trainer.models.detr.position_encoding import SinePositionEncoding
from trainer.models.detr.transformer import Transformer

DIM, HEADS, QUERIES, CLASSES, LAYERS = 8, 2, 5, 3, 3
HEIGHT, WIDTH = 4, 5


def mask_of(*sizes: tuple[int, int]) -> Tensor:
    """True where padded, for images of the given heights and widths in cells."""
    mask = torch.ones(len(sizes), HEIGHT, WIDTH, dtype=torch.bool)
    for index, (height, width) in enumerate(sizes):
        mask[index, :height, :width] = False
    return mask


MASKS = {
    "nothing padded": mask_of((4, 5), (4, 5)),
    "one image padded": mask_of((4, 5), (3, 2)),
    "whole rows and columns padded everywhere": mask_of((2, 3), (1, 4)),
    "a single cell left": mask_of((1, 1), (4, 5)),
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def scatter(module: torch.nn.Module, draw: Callable[..., Tensor]) -> None:
    """Makes no weight, bias or scale of a module the neutral one that it started as."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * draw(*parameter.shape))


@masks
def test_sine_positions(mask):
    code = SinePositionEncoding(DIM)(mask)
    for image, padded in enumerate(mask.numpy()):
        wanted = reference.sine_positions(padded, DIM).transpose(2, 0, 1)
        assert np.abs(numbers(code[image]) - wanted).max() < 1e-5


@masks
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_transformer(mask, pre_norm, training, draw):
    transformer = Transformer(DIM, HEADS, 2, LAYERS, 12, 0.0, pre_norm).train(training)
    scatter(transformer, draw)
    features, position = draw(2, DIM, HEIGHT, WIDTH), draw(2, DIM, HEIGHT, WIDTH)
    queries = draw(QUERIES, DIM)
    objects = transformer(features, mask, queries, position)
    weights = {name: numbers(weight) for name, weight in transformer.state_dict().items()}
    for image in range(2):
        wanted = reference.transformer(
            weights,
            heads=HEADS,
            layers=(2, LAYERS),
            pre_norm=pre_norm,
            cells=numbers(features[image].flatten(1).T),
            padded=mask[image].flatten().numpy(),
            position=numbers(position[image].flatten(1).T),
            queries=numbers(queries),
        )
        assert np.abs(numbers(objects[:, image]) - wanted).max() < 2e-5


def test_the_model_from_features_to_boxes(draw):
    model = build_model("detr_tiny", num_classes=CLASSES, num_queries=QUERIES, aux_loss=True).eval()
    scatter(model.transformer, draw)
    images, padding = random_images(2, 3, 40, 56), torch.zeros(2, 40, 56, dtype=torch.bool)
    padding[1, 24:], padding[1, :, 17:] = True, True
    with torch.no_grad():
        outputs = model(images, padding)
        features, mask = model.backbone[0](model.normalize(images, padding), padding)
    # Stride 8, and a cell belongs to the image where its top left pixel does.
    assert mask[1].sum(1).tolist() == [4, 4, 4, 7, 7]
    weights = {name: numbers(weight) for name, weight in model.state_dict().items()}
    inner = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    dim = weights["query_embed.weight"].shape[1]
    for image in range(2):
        cells = numbers(features[image].flatten(1).T)
        padded = mask[image].numpy()
        objects = reference.transformer(
            inner,
            heads=8,
            layers=(2, LAYERS),
            pre_norm=True,
            cells=cells @ weights["input_proj.weight"][:, :, 0, 0].T + weights["input_proj.bias"],
            padded=padded.flatten(),
            position=reference.sine_positions(padded, dim).reshape(-1, dim),
            queries=weights["query_embed.weight"],
        )
        for layer, output in zip(objects, [*outputs["aux_outputs"], outputs], strict=True):
            logits = reference.linear(weights, "class_embed", layer)
            for index in range(3):
                layer = reference.linear(
                    weights, f"bbox_embed.layers.{index}", np.maximum(layer, 0) if index else layer
                )
            boxes = 1 / (1 + np.exp(-layer))
            assert np.abs(numbers(output["pred_logits"][image]) - logits).max() < 1e-4
            assert np.abs(numbers(output["pred_boxes"][image]) - boxes).max() < 1e-5


SIZES = {
    "some objects": [3, 1],
    "one object in the batch": [1, 0],
    "an image without objects": [0, 4, 2],
    "no objects at all": [0, 0],
    "more objects than queries": [7, 2],
    "as many objects as queries": [5, 5],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_matching_losses_and_detections(sizes, seed):
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int) -> Tensor:
        return 0.1 + 0.5 * torch.rand(*shape, 4, generator=generator)

    layers = [
        {
            "pred_logits": 2 * torch.randn(len(sizes), QUERIES, CLASSES + 1, generator=generator),
            "pred_boxes": boxes(len(sizes), QUERIES),
        }
        for _ in range(LAYERS)
    ]
    targets = [{"labels": torch.randint(CLASSES, (n,), generator=generator), "boxes": boxes(n)} for n in sizes]
    truth = [(target["labels"].numpy(), numbers(target["boxes"])) for target in targets]

    matches = HungarianMatcher()(layers[0], targets)
    for image, (queries, things) in enumerate(matches):
        logits, places = (numbers(layers[0][name][image]) for name in ("pred_logits", "pred_boxes"))
        assert dict(zip(queries.tolist(), things.tolist(), strict=True)) == reference.match(
            logits, places, *truth[image]
        )

    by_layer = [
        reference.losses(numbers(layer["pred_logits"]), numbers(layer["pred_boxes"]), truth) for layer in layers
    ]
    weights = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
    wanted = {name: weight * sum(layer[name] for layer in by_layer) for name, weight in weights.items()}
    wanted["loss"] = sum(wanted.values())
    wanted |= {name: by_layer[0][name] for name in ("class_error", "cardinality_error")}
    found = losses_of(SetCriterion(CLASSES), {**layers[0], "aux_outputs": layers[1:]}, targets)
    assert list(found) == list(FIGURES)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(wanted, rel=1e-5, abs=1e-5)

    frame = torch.tensor([[480, 640]] * len(sizes))
    for image, detection in enumerate(post_process(layers[0], frame)):
        rows = reference.detections(
            numbers(layers[0]["pred_logits"][image]), numbers(layers[0]["pred_boxes"][image]), 480, 640
        )
        assert detection["scores"].tolist() == pytest.approx([row[0] for row in rows], abs=1e-6)
        assert detection["labels"].tolist() == [row[1] for row in rows]
        assert np.abs(numbers(detection["boxes"]) - np.array([row[2] for row in rows])).max() < 1e-3
