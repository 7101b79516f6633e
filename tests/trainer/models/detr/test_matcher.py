from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torchvision.ops import box_convert

from trainer.models.box_ops import generalized_iou
from trainer.models.detr.matcher import HungarianMatcher


def random_case(sizes: list[int], queries: int, classes: int, seed: int):
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, 4, generator=generator) * 0.4 + 0.1

    outputs = {
        "pred_logits": torch.randn(len(sizes), queries, classes + 1, generator=generator),
        "pred_boxes": boxes(len(sizes), queries),
    }
    targets = [{"labels": torch.randint(classes, (size,), generator=generator), "boxes": boxes(size)} for size in sizes]
    return outputs, targets


def pair_cost(outputs, target, image: int, query: int, thing: int) -> float:
    """The cost of one pair from equation 1, written out."""
    probability = outputs["pred_logits"][image, query].softmax(-1)[target["labels"][thing]]
    predicted, truth = outputs["pred_boxes"][image, query], target["boxes"][thing]
    overlap = generalized_iou(box_convert(predicted, "cxcywh", "xyxy"), box_convert(truth, "cxcywh", "xyxy"))
    return float(5 * (predicted - truth).abs().sum() - probability - 2 * overlap)


@pytest.mark.parametrize("seed", range(5))
def test_the_matching_is_the_cheapest_of_all(seed):
    sizes = [3, 0, 2, 4]
    outputs, targets = random_case(sizes, queries=5, classes=3, seed=seed)
    matches = HungarianMatcher()(outputs, targets)
    assert [len(query) for query, _ in matches] == sizes
    for image, (queries, things) in enumerate(matches):
        assert sorted(things.tolist()) == list(range(sizes[image]))
        assert queries.tolist() == sorted(set(queries.tolist()))
        cost = {
            (query, thing): pair_cost(outputs, targets[image], image, query, thing)
            for query in range(5)
            for thing in range(sizes[image])
        }
        found = sum(cost[pair] for pair in zip(queries.tolist(), things.tolist(), strict=True))
        best = min(
            sum(cost[query, thing] for thing, query in enumerate(chosen))
            for chosen in permutations(range(5), sizes[image])
        )
        assert found == pytest.approx(best, abs=1e-5)


def test_more_objects_than_queries():
    outputs, targets = random_case([6], queries=4, classes=2, seed=0)
    ((queries, things),) = HungarianMatcher()(outputs, targets)
    assert queries.tolist() == [0, 1, 2, 3]
    assert len(set(things.tolist())) == 4


@pytest.mark.parametrize("only", ["cost_class", "cost_bbox", "cost_giou"])
def test_each_weight_acts_on_its_own_term(only):
    weights = {"cost_class": 0.0, "cost_bbox": 0.0, "cost_giou": 0.0, only: 1.0}
    right = torch.tensor([0.5, 0.5, 0.2, 0.2])
    wrong = torch.tensor([0.8, 0.8, 0.1, 0.1])
    by_class = only == "cost_class"
    outputs = {
        "pred_logits": torch.tensor([[[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]]] if by_class else [[[5.0, 0, 0], [0.0, 5, 0]]]),
        "pred_boxes": torch.stack([right, wrong] if by_class else [wrong, right])[None],
    }
    targets = [{"labels": torch.tensor([0]), "boxes": right[None]}]
    ((query, _),) = HungarianMatcher(**weights)(outputs, targets)
    assert query.tolist() == [1]


def test_layers_are_matched_each_on_their_own():
    (first, targets), (second, _) = (random_case([2, 3], 5, 3, seed) for seed in (0, 1))
    matcher = HungarianMatcher()
    logits = torch.stack([first["pred_logits"], second["pred_logits"]])
    boxes = torch.stack([first["pred_boxes"], second["pred_boxes"]])
    together = matcher.match_layers(logits, boxes, targets)
    for layer, outputs in zip(together, (first, second), strict=True):
        for pair, alone in zip(layer, matcher(outputs, targets), strict=True):
            assert torch.equal(pair[0], alone[0])
            assert torch.equal(pair[1], alone[1])


def test_a_batch_without_objects():
    outputs, targets = random_case([0, 0], queries=4, classes=2, seed=0)
    assert [len(query) for query, _ in HungarianMatcher()(outputs, targets)] == [0, 0]


def test_predictions_that_are_not_numbers_are_matched_nonetheless():
    outputs, targets = random_case([2], queries=3, classes=2, seed=0)
    outputs["pred_boxes"][:] = float("nan")
    ((queries, _),) = HungarianMatcher()(outputs, targets)
    assert len(queries) == 2
