from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.backbone import Backbone, FrozenBatchNorm2d


def test_frozen_normalisation_equals_torch_in_evaluation():
    trained = nn.BatchNorm2d(3)
    with torch.no_grad():
        for tensor in (trained.weight, trained.bias, trained.running_mean, trained.running_var):
            tensor.uniform_(0.5, 2)
    frozen = FrozenBatchNorm2d(3)
    frozen.load_state_dict(trained.state_dict())
    x = torch.randn(2, 3, 4, 5)
    assert torch.allclose(frozen.train()(x), trained.eval()(x), atol=1e-6)
    assert not list(frozen.parameters())
    assert set(frozen.state_dict()) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize(
    ("name", "last", "dilated", "channels", "stride"),
    [
        ("resnet18", "layer3", False, 256, 16),
        ("resnet50", "layer4", False, 2048, 32),
        ("resnet50", "layer4", True, 2048, 16),
    ],
)
def test_features_and_mask_have_the_stride_of_the_last_stage(name, last, dilated, channels, stride):
    backbone = Backbone(name, last, dilated, frozen_norm=True)
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, :, 64:] = True
    features, small = backbone(torch.zeros(1, 3, 64, 96), mask)
    assert backbone.num_channels == channels
    assert features.shape == (1, channels, 64 // stride, 96 // stride)
    assert small.shape == features.shape[:1] + features.shape[2:]
    assert small[0, 0].tolist() == [False] * (64 // stride) + [True] * (32 // stride)


def test_a_pretrained_backbone_keeps_its_stem_and_a_random_one_trains_it():
    kept = Backbone("resnet18", "layer3", False, frozen_norm=True)
    assert not kept.body.conv1.weight.requires_grad
    assert not kept.body.layer1[0].conv1.weight.requires_grad
    assert kept.body.layer2[0].conv1.weight.requires_grad
    random = Backbone("resnet18", "layer3", False, frozen_norm=False)
    assert all(parameter.requires_grad for parameter in random.parameters())
    assert isinstance(random.body.bn1, nn.BatchNorm2d)
