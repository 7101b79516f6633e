"""DETR behind its backbone, written out a second time: NumPy, float64, loops, and no code of the trainer.

Section and equation numbers are those of Carion et al. 2020, arXiv 2005.12872. Only what is looped over differs from
the paper's text; nothing here is meant to be fast.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

Weights = dict[str, np.ndarray]
Array = np.ndarray


def sine_positions(padded: Array, dim: int) -> Array:
    """Appendix A.4: `[h, w]` (True where padded) to `[h, w, dim]`, rows in the first half, columns in the second."""
    height, width = padded.shape
    code = np.zeros((height, width, dim))
    half = dim // 2
    for y in range(height):
        for x in range(width):
            above = sum(not padded[i, x] for i in range(y + 1))
            left = sum(not padded[y, j] for j in range(x + 1))
            rows = sum(not padded[i, x] for i in range(height))
            columns = sum(not padded[y, j] for j in range(width))
            for start, place in ((0, above / (rows + 1e-6)), (half, left / (columns + 1e-6))):
                for index in range(half):
                    angle = 2 * math.pi * place / 10000 ** (2 * (index // 2) / half)
                    code[y, x, start + index] = math.sin(angle) if index % 2 == 0 else math.cos(angle)
    return code


def linear(weights: Weights, name: str, x: Array) -> Array:
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def layer_norm(weights: Weights, name: str, x: Array) -> Array:
    """Every row on its own, with the biased variance."""
    rows = []
    for row in x:
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        rows.append((row - mean) / math.sqrt(variance + 1e-5))
    return np.array(rows) * weights[name + ".weight"] + weights[name + ".bias"]


def softmax(values: Array) -> Array:
    powers = np.array([math.exp(value - max(values)) for value in values])
    return powers / sum(powers)


def attention(weights: Weights, name: str, heads: int, query: Array, key: Array, value: Array, padded: Array) -> Array:
    """Multi-head attention of one image over the keys that are not padded: `[N, dim]` and `[M, dim]` to `[N, dim]`."""
    dim = query.shape[1]
    matrix, shift = weights[name + ".in_proj_weight"], weights[name + ".in_proj_bias"]
    q = query @ matrix[:dim].T + shift[:dim]
    k = key @ matrix[dim : 2 * dim].T + shift[dim : 2 * dim]
    v = value @ matrix[2 * dim :].T + shift[2 * dim :]
    kept = [index for index in range(len(key)) if not padded[index]]
    width = dim // heads
    out = np.zeros((len(query), dim))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for n in range(len(query)):
            share = softmax(np.array([q[n, part] @ k[m, part] / math.sqrt(width) for m in kept]))
            for weight, m in zip(share, kept, strict=True):
                out[n, part] += weight * v[m, part]
    return linear(weights, name + ".out_proj", out)


def feed_forward(weights: Weights, name: str, x: Array) -> Array:
    return linear(weights, name + ".linear2", np.maximum(linear(weights, name + ".linear1", x), 0))


def transformer(
    weights: Weights,
    *,
    heads: int,
    layers: tuple[int, int],
    pre_norm: bool,
    cells: Array,
    padded: Array,
    position: Array,
    queries: Array,
) -> Array:
    """Figure 10, for one image: cells `[N, dim]` and queries `[Q, dim]` to objects after each layer, `[L, Q, dim]`."""

    def sub_layer(x: Array, norm: str, inner: Any) -> Array:
        if pre_norm:
            return x + inner(layer_norm(weights, norm, x))
        return layer_norm(weights, norm, x + inner(x))

    x = cells
    for index in range(layers[0]):
        name = f"encoder.layers.{index}"

        def look_around(y: Array, name: str = name) -> Array:
            return attention(weights, name + ".self_attn", heads, y + position, y + position, y, padded)

        x = sub_layer(x, name + ".norm1", look_around)
        x = sub_layer(x, name + ".norm2", lambda y, name=name: feed_forward(weights, name, y))
    memory = layer_norm(weights, "encoder.norm", x) if pre_norm else x

    nothing_padded = np.zeros(len(queries), dtype=bool)
    x, after_each = np.zeros_like(queries), []
    for index in range(layers[1]):
        name = f"decoder.layers.{index}"

        def talk(y: Array, name: str = name) -> Array:
            return attention(weights, name + ".self_attn", heads, y + queries, y + queries, y, nothing_padded)

        def look(y: Array, name: str = name) -> Array:
            return attention(weights, name + ".multihead_attn", heads, y + queries, memory + position, memory, padded)

        x = sub_layer(x, name + ".norm1", talk)
        x = sub_layer(x, name + ".norm2", look)
        x = sub_layer(x, name + ".norm3", lambda y, name=name: feed_forward(weights, name, y))
        after_each.append(layer_norm(weights, "decoder.norm", x))
    return np.array(after_each)


def corners(box: Array) -> tuple[float, float, float, float]:
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def generalized_iou(a: Array, b: Array) -> float:
    """Of two boxes cx, cy, w, h with area."""
    ax0, ay0, ax1, ay1 = corners(a)
    bx0, by0, bx1, by1 = corners(b)
    inter = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inter
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return inter / union - (hull - union) / hull


def match(logits: Array, boxes: Array, labels: Array, truth: Array) -> dict[int, int]:
    """Equation 1 with the costs of section 3.1 for one image: the object of each matched query."""
    cost = np.zeros((len(logits), len(labels)))
    for query in range(len(logits)):
        probability = softmax(logits[query])
        for thing in range(len(labels)):
            distance = sum(abs(boxes[query] - truth[thing]))
            overlap = generalized_iou(boxes[query], truth[thing])
            cost[query, thing] = 5 * distance - probability[labels[thing]] - 2 * overlap
    queries, things = linear_sum_assignment(cost)
    return {int(query): int(thing) for query, thing in zip(queries, things, strict=True)}


def losses(logits: Array, boxes: Array, targets: list[tuple[Array, Array]]) -> dict[str, float]:
    """Equation 2 and appendix A.2 for one layer: `[B, Q, C + 1]`, `[B, Q, 4]` and (labels, boxes) of each image."""
    no_object = logits.shape[2] - 1
    ce = weight = l1 = giou = right = pairs = miscounted = 0.0
    for image, (labels, truth) in enumerate(targets):
        thing_of = match(logits[image], boxes[image], labels, truth)
        seen = 0
        for query in range(logits.shape[1]):
            thing = thing_of.get(query)
            wanted = no_object if thing is None else labels[thing]
            factor = 0.1 if wanted == no_object else 1.0
            ce -= factor * math.log(softmax(logits[image, query])[wanted])
            weight += factor
            best = int(np.argmax(logits[image, query]))
            seen += best != no_object
            if thing is not None:
                pairs += 1
                right += best == wanted
                l1 += sum(abs(boxes[image, query] - truth[thing]))
                giou += 1 - generalized_iou(boxes[image, query], truth[thing])
        miscounted += abs(seen - len(labels))
    count = max(1, sum(len(labels) for labels, _ in targets))
    return {
        "loss_ce": ce / weight,
        "loss_bbox": l1 / count,
        "loss_giou": giou / count,
        "class_error": 100 * (pairs - right) / max(1, pairs),
        "cardinality_error": miscounted / len(targets),
    }


def detections(logits: Array, boxes: Array, height: float, width: float) -> list[tuple[float, int, list[float]]]:
    """Score, label and corners in pixels of every query of one image."""
    found = []
    for query in range(len(logits)):
        probability = softmax(logits[query])[:-1]
        label = int(np.argmax(probability))
        x0, y0, x1, y1 = corners(boxes[query])
        found.append((float(probability[label]), label, [x0 * width, y0 * height, x1 * width, y1 * height]))
    return found
