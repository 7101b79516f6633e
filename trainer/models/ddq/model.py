"""A dense first stage proposes, its distinct cells become queries, and a short decoder corrects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.models.backbones.efficientnet_lite import PYRAMID_CHANNELS, PYRAMID_STRIDES, LiteBackbone, pyramid
from trainer.models.ddq import pretrained
from trainer.models.ddq.criterion import FIGURES, Outputs, losses
from trainer.models.ddq.decoder import Among, DecoderLayer, Layer
from trainer.models.ddq.denoising import Denoising, make_denoising
from trainer.models.ddq.dense_head import Dense, DenseHead, flatten_levels
from trainer.models.ddq.neck import PyramidNeck
from trainer.models.ddq.selection import Queries, select_queries, suppress
from trainer.models.ddq.settings import DdqSettings
from trainer.models.ddq.targets import pad_targets
from trainer.models.interface import DetectionModel, Target, groups_without_decay


class DdqDetector(DetectionModel):
    """A DETR for little data: it starts from what a dense detector learns quickly, and needs no anchors.

    Queries that overlap a better one are suppressed before each decoder layer, so that one-to-one matching need not
    learn to, and nothing is left for NMS behind the decoder.
    """

    figures = FIGURES
    # What EfficientNet-lite0's published weights expect.
    pixel_mean = (127.0, 127.0, 127.0)
    pixel_std = (128.0, 128.0, 128.0)

    def __init__(self, num_classes: int, settings: DdqSettings) -> None:
        """Builds the network with random weights for C classes.

        Raises:
            ValueError: the settings contradict each other.
        """
        super().__init__()
        self.settings = settings
        dim, levels = settings.dim, len(PYRAMID_STRIDES)
        self.backbone = LiteBackbone("stage7", frozen_norm=False)
        self.neck = PyramidNeck(PYRAMID_CHANNELS, dim)
        self.dense_head = DenseHead(dim, num_classes, PYRAMID_STRIDES)
        self.query_embed = nn.Sequential(nn.Linear(2 * dim, dim), nn.LayerNorm(dim))
        sizes = (settings.heads, levels, settings.points, settings.feedforward)
        self.decoder = nn.ModuleList(DecoderLayer(dim, num_classes, *sizes) for _ in range(settings.decoder_layers))

    def freeze_norm(self) -> None:
        """Keeps the backbone's batch normalisation and its first stages as the weights have them."""
        self.backbone.freeze_norm()
        self.spec["frozen_norm"] = True

    def forward(self, images: Tensor, mask: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Finds objects.

        Args:
            images: uint8 `[B, 3, H, W]`.
            mask: bool `[B, H, W]`, True where an image is padded.
            targets: with them, in training, some queries start from noisy ground truth, drawn from torch's global
                random numbers.
        """
        sizes = torch.stack([(~mask[:, 0]).sum(1), (~mask[:, :, 0]).sum(1)], dim=1).float()
        height, width = (-side % PYRAMID_STRIDES[-1] for side in images.shape[2:])
        pixels = functional.pad(self.normalize(images, mask), (0, width, 0, height))
        # Channels last in memory, which every layer behind then keeps to: convolutions are fastest so.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        levels = self.neck(pyramid(self.backbone.body, pixels))
        dense = self.dense_head(levels, sizes)
        queries = select_queries(dense, self._candidates, self.settings.num_queries, self.settings.distinct_iou)
        denoising = None
        if targets is not None and self.training:
            denoising = make_denoising(pad_targets(targets, sizes), dense.cells, self.settings.denoising_queries)
        logits, boxes, distinct = self._decode(levels, dense, queries, denoising)
        return Outputs(dense, logits, boxes, distinct, denoising, sizes)

    @property
    def _candidates(self) -> int:
        # Most candidates are duplicates: many queries need many more of them.
        return max(self.settings.candidates, 4 * self.settings.num_queries)

    def _decode(
        self, levels: list[Tensor], dense: Dense, queries: Queries, denoising: Denoising | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores `[L, B, Q + R, C]`, boxes `[L, B, Q + R, 4]` and `Outputs.distinct`."""
        memory = flatten_levels(levels)
        shapes = [(level.shape[2], level.shape[3]) for level in levels]
        height, width = (side * PYRAMID_STRIDES[0] for side in shapes[0])
        # Not a list of numbers: an exported graph would keep those of the images that it was recorded with.
        size = torch.stack([torch.full((), side, device=memory.device) for side in (width, height)]).float().repeat(2)

        boxes, cells = box_convert(_gather(dense.boxes, queries.indices), "xyxy", "cxcywh"), queries.indices
        distinct, count = queries.distinct, queries.indices.shape[1]
        among = [Among(1, count)]
        if denoising is not None:
            boxes = torch.cat([boxes, denoising.boxes], dim=1)
            cells = torch.cat([cells, denoising.cells], dim=1)
            among.append(Among(denoising.groups, denoising.boxes.shape[1] // denoising.groups))

        state = self.query_embed(torch.cat([_gather(memory, cells), _gather(dense.features, cells)], dim=-1))
        said = Layer(_gather(dense.logits, cells), boxes)
        layers, kept = [], []
        for number, layer in enumerate(self.decoder):
            if number:
                # Queries that were distinct may have found the same object.
                corners = box_convert(said.boxes[:, :count].detach(), "cxcywh", "xyxy")
                scores = said.logits[:, :count].detach().amax(-1)
                distinct = suppress(corners, scores, distinct, self.settings.distinct_iou)
            visible = distinct if denoising is None else torch.cat([distinct, denoising.present], dim=1)
            state, said = layer(state, said, memory, shapes, size, visible, among)
            layers.append(said)
            kept.append(distinct)
        logits, boxes = (torch.stack([getattr(said, name) for said in layers]) for name in Layer._fields)
        return logits, boxes, torch.stack(kept)

    def normalizers(self, targets: Sequence[Target]) -> Tensor:
        """The number of objects, float32 `[1]`."""
        return torch.tensor([float(sum(len(target["labels"]) for target in targets))])

    def losses(self, outputs: Outputs, targets: Sequence[Target], normalizers: Tensor) -> dict[str, Tensor]:
        """The weighted losses; see `criterion.losses`."""
        return losses(outputs, targets, normalizers.to(outputs.logits.device)[0], self.settings)

    @torch.no_grad()
    def detections(self, outputs: Outputs, sizes: Tensor) -> list[dict[str, Tensor]]:
        """Decodes the last layer; `scores` descend, and boxes lie within the image."""
        decoded = self.decode(outputs, sizes)
        found = []
        for image, distinct in enumerate(outputs.distinct[-1]):
            order = decoded["scores"][image].argsort(descending=True, stable=True)
            order = order[distinct[order]]
            found.append({name: values[image][order] for name, values in decoded.items()})
        return found

    def decode(self, outputs: Outputs, sizes: Tensor) -> dict[str, Tensor]:
        """Decodes the last layer's queries; the suppressed ones have the score 0."""
        count = outputs.distinct.shape[2]
        scores, labels = outputs.logits[-1, :, :count].sigmoid().max(-1)
        scale = sizes.to(outputs.sizes).flip(1) / outputs.sizes
        boxes = box_convert(outputs.boxes[-1, :, :count], "cxcywh", "xyxy") * scale.repeat(1, 2)[:, None]
        limit = sizes.to(boxes).flip(1).repeat(1, 2)[:, None]
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        return {"scores": scores.masked_fill(~outputs.distinct[-1], 0), "labels": labels, "boxes": boxes}

    def feature_module(self) -> nn.Module:
        """The neck: the backbone is gone through stage by stage, and gives nothing as a whole."""
        return self.neck

    def load_pretrained(self, source: str, class_names: Sequence[str] | None) -> None:
        """Loads initial weights, and keeps batch normalisation as it is in them; see `pretrained.load`."""
        pretrained.load(self, source, class_names)

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """As the default, but norms and biases do not decay."""
        return groups_without_decay(self, config, lambda name: name.startswith("backbone."))


def build(spec: Mapping[str, Any]) -> DdqDetector:
    """The model with random weights.

    Args:
        spec: `model`, ddq_lite0; `num_classes`; any of `DdqSettings`; and `frozen_norm`, as `freeze_norm` leaves it.

    Raises:
        TrainerError: the sizes contradict each other.
    """
    settings = DdqSettings(**{key: spec[key] for key in DdqSettings.model_fields if key in spec})
    if settings.dim % settings.heads:
        raise TrainerError(f"{spec['model']}: heads {settings.heads} does not divide dim {settings.dim}")
    model = DdqDetector(spec["num_classes"], settings)
    model.spec = {"model": spec["model"], "num_classes": spec["num_classes"], **settings.model_dump()}
    if spec.get("frozen_norm"):
        model.freeze_norm()
    return model


def _gather(values: Tensor, indices: Tensor) -> Tensor:
    """Rows `[B, Q]` of `[B, N, c]` as `[B, Q, c]`."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))
