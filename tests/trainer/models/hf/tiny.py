"""Detectors of transformers with a few thousand random weights, saved as their authors would publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CLASSES = ["bolt", "person", "hex_nut"]

_DETR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 10,
}
_RT_DETR: dict[str, Any] = {
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "d_model": 32,
    "num_queries": 12,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_denoising": 8,
    # Random weights behind norms that do nothing let the features vanish.
    "freeze_backbone_batch_norms": False,
}
_LEVELS = ["stage2", "stage3", "stage4"]
_RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1] * 4}
_RESNET["layer_type"] = "basic"


def _config(kind: str, library: Any) -> Any:
    if kind == "detr":
        backbone = library.ResNetConfig(**_RESNET, out_features=["stage4"])
        return library.DetrConfig(backbone_config=backbone, use_timm_backbone=False, **_DETR)
    if kind == "conditional_detr":
        backbone = library.ResNetConfig(**_RESNET, out_features=["stage4"])
        return library.ConditionalDetrConfig(backbone_config=backbone, use_timm_backbone=False, **_DETR)
    if kind == "deformable_detr":
        return library.DeformableDetrConfig(
            backbone_config=library.ResNetConfig(**_RESNET, out_features=_LEVELS),
            use_timm_backbone=False,
            num_feature_levels=3,
            two_stage=True,
            two_stage_num_proposals=10,
            with_box_refine=True,
            **_DETR,
        )
    if kind == "rt_detr_v2":
        narrow = {"downsample_in_first_stage": False, "downsample_in_bottleneck": False}
        backbone = library.RTDetrResNetConfig(**_RESNET, **narrow, out_features=_LEVELS)
        return library.RTDetrV2Config(backbone_config=backbone, encoder_in_channels=[16, 16, 16], **_RT_DETR)
    if kind == "d_fine":
        backbone = library.HGNetV2Config(
            stage_in_channels=[16, 16, 32, 32],
            stage_mid_channels=[8] * 4,
            stage_out_channels=[16, 32, 32, 32],
            stage_num_blocks=[1] * 4,
            stage_downsample=[False, True, True, True],
            stage_light_block=[False] * 4,
            stage_kernel_size=[3] * 4,
            stage_numb_of_layers=[1] * 4,
            stem_channels=[3, 8, 16],
            hidden_sizes=[16, 32, 32, 32],
            depths=[1] * 4,
            embedding_size=16,
            out_features=_LEVELS,
        )
        return library.DFineConfig(
            backbone_config=backbone, encoder_in_channels=[32, 32, 32], hidden_size=32, **_RT_DETR
        )
    if kind == "rf_detr":
        backbone = {
            "model_type": "rf_detr_dinov2",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": 64,
            "patch_size": 16,
            "num_windows": 2,
            "out_indices": [1, 2],
            "window_block_indexes": [0],
        }
        heads = {"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 4}
        sizes = {"d_model": 32, "decoder_ffn_dim": 32, "decoder_layers": 2, "num_queries": 10, "group_detr": 2}
        return library.RfDetrConfig(backbone_config=backbone, **sizes, **heads)
    assert kind == "yolos"
    return library.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 64],
        num_detection_tokens=10,
    )


def save_tiny(kind: str, folder: Path, *, license: str | None = "apache-2.0") -> Path:
    """Writes config.json, model.safetensors, preprocessor_config.json and, with a license, a model card."""
    import torch
    import transformers

    config = _config(kind, transformers)
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: label for label, name in enumerate(CLASSES)}
    torch.manual_seed(0)
    transformers.AutoModelForObjectDetection.from_config(config).save_pretrained(folder)
    name = {"rt_detr_v2": "RTDetr", "d_fine": "RTDetr"}.get(kind, kind.title().replace("_", ""))
    getattr(transformers, f"{name}ImageProcessor")().save_pretrained(folder)
    if license is not None:
        (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n# A detector\n", encoding="utf-8")
    return folder
