"""D-FINE of transformers on EfficientNet-lite0, three decoder layers: `dfine_lite0`, for comparison only.

The published D-FINE brings its own backbones, whose ImageNet weights are on the hub; on ours it can be compared with
`ddq_lite0` from the same weights. The network is as wide as D-FINE-N (arXiv 2410.13842) with the three strides of
the larger ones. The rates are untuned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainer.models.backbones.efficientnet_lite import (
    PYRAMID_CHANNELS,
    PYRAMID_STRIDES,
    LiteBackbone,
    imagenet_weights,
    pyramid,
)
from trainer.models.family import Family, ModelInfo
from trainer.models.hf.model import HFDetector
from trainer.models.registry import register

_DIM = 128


class _Features(nn.Module):
    """The pyramid as the library's encoder takes it: maps with masks, which D-FINE does not look at."""

    def __init__(self) -> None:
        super().__init__()
        self.lite = LiteBackbone("stage7", frozen_norm=False)

    def forward(self, images: Tensor, mask: Tensor) -> list[tuple[Tensor, None]]:
        return [(level, None) for level in pyramid(self.lite.body, images)]


class DFineLite0(HFDetector):
    """The library's detector with its backbone exchanged."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.network.model.backbone = _Features()
        self.network.model.backbone.lite.freeze_norm()

    def load_pretrained(self, source: str, class_names: Sequence[str] | None) -> None:
        if source != "imagenet":
            super().load_pretrained(source, class_names)
            return
        self.network.model.backbone.lite.load_state_dict(imagenet_weights())


def build(spec: Mapping[str, Any]) -> DFineLite0:
    """The model with random weights; `spec` is complete when it comes from a checkpoint."""
    if "config" in spec:
        return DFineLite0(spec)
    import transformers

    channels = list(PYRAMID_CHANNELS)
    # Only its channels matter: it is exchanged.
    backbone = transformers.HGNetV2Config(
        stage_in_channels=[16, 16, channels[0], channels[1]],
        stage_mid_channels=[8] * 4,
        stage_out_channels=[16, *channels],
        stage_num_blocks=[1] * 4,
        stage_downsample=[False, True, True, True],
        stage_light_block=[False] * 4,
        stage_kernel_size=[3] * 4,
        stage_numb_of_layers=[1] * 4,
        stem_channels=[3, 8, 16],
        hidden_sizes=[16, *channels],
        depths=[1] * 4,
        embedding_size=16,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=channels,
        feat_strides=list(PYRAMID_STRIDES),
        encoder_hidden_dim=_DIM,
        encoder_ffn_dim=4 * _DIM,
        hidden_expansion=0.5,
        depth_mult=0.5,
        d_model=_DIM,
        decoder_in_channels=[_DIM] * len(channels),
        decoder_ffn_dim=4 * _DIM,
        decoder_layers=3,
        num_labels=spec["num_classes"],
    ).to_dict()
    found = {"config": config, "pixel_mean": [127.0] * 3, "pixel_std": [128.0] * 3}
    model = DFineLite0({**spec, **found, "license": None, "revision": None})
    model.spec.update(model.probe())
    model.figures = tuple(model.spec["figures"])
    return model


register(
    Family(
        name="dfine_lite0",
        settings_class="trainer.models.hf.settings.HFSettings",
        module="dfine_lite0",
        models={
            "dfine_lite0": ModelInfo(
                {
                    "pretrained": "imagenet",
                    "batch_size": 4,
                    "lr": 5e-4,
                    "lr_backbone": 1e-4,
                    "weight_decay": 1e-2,
                    "warmup_steps": 20,
                    "lr_drop_at": 0.8,
                    "image_size": 256,
                    "max_size": 448,
                    "augment": "light",
                },
                small=True,
            )
        },
    )
)
