from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn

from trainer.models.backbones.frozen_norm import FrozenBatchNorm2d, convolve
from trainer.models.backbones.resnet import Backbone


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


def scatter_norms(module: nn.Module) -> None:
    """Statistics and affine maps as a trained network has them, not those that change nothing."""
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, FrozenBatchNorm2d | nn.BatchNorm2d):
                for tensor in (norm.weight, norm.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (norm.bias, norm.running_mean):
                    tensor.normal_(std=0.2)


def separate(name: str, last: str, frozen: bool, backbone: Backbone) -> nn.Module:
    """torchvision's own network with the backbone's weights: every normalisation is a layer of its own."""
    norm = torchvision.ops.FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    whole = torchvision.models.get_model(name, weights=None, norm_layer=norm)
    stages = list(OrderedDict(whole.named_children()).items())
    body = nn.Sequential(OrderedDict(stages[: [stage for stage, _ in stages].index(last) + 1]))
    body.load_state_dict(backbone.body.state_dict(), strict=True)
    for (_, theirs), (_, ours) in zip(body.named_parameters(), backbone.body.named_parameters(), strict=True):
        theirs.requires_grad_(ours.requires_grad)
    return body


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("name", "last"), [("resnet18", "layer3"), ("resnet50", "layer4")])
def test_features_and_gradients_are_those_of_separate_layers(name, last, frozen):
    torch.manual_seed(0)
    backbone = Backbone(name, last, dilated=False, frozen_norm=frozen)
    scatter_norms(backbone)
    # In float64, because normalisation over a small batch and ReLU would blow up what float32 rounds off.
    plain = separate(name, last, frozen, backbone).double()
    backbone.double()
    optimizers = [torch.optim.SGD(module.parameters(), lr=1e-3) for module in (backbone, plain)]
    mask = torch.zeros(2, 67, 90, dtype=torch.bool)
    # The second step tells whether what was folded follows the weights.
    for _ in range(2):
        images = torch.randn(2, 3, 67, 90, dtype=torch.float64)
        features, wanted = backbone(images, mask)[0], plain(images)
        assert torch.allclose(features, wanted)
        direction = torch.randn_like(wanted)
        (features * direction).mean().backward()
        (wanted * direction).mean().backward()
        for (weight, ours), theirs in zip(backbone.body.named_parameters(), plain.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None), weight
            if ours.grad is not None:
                assert torch.allclose(ours.grad, theirs.grad, atol=1e-9), weight
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_evaluation_follows_weights_loaded_later():
    torch.manual_seed(0)
    first, second = (Backbone("resnet18", "layer2", dilated=False, frozen_norm=True).eval() for _ in range(2))
    scatter_norms(second)
    images, mask = torch.randn(1, 3, 40, 48), torch.zeros(1, 40, 48, dtype=torch.bool)
    with torch.no_grad():
        before = first(images, mask)[0]
        first.load_state_dict(second.state_dict())
        after = first(images, mask)[0]
        assert torch.equal(after, second(images, mask)[0])
        assert not torch.allclose(after, before)


def test_memory_layout_changes_no_value():
    torch.manual_seed(0)
    backbone = Backbone("resnet50", "layer4", dilated=False, frozen_norm=True)
    scatter_norms(backbone)
    images, mask = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    features = backbone(images, mask)[0]
    plain = backbone.body(images)
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert plain.is_contiguous()
    assert torch.allclose(features, plain, atol=1e-4 * float(plain.detach().abs().max()))


def test_a_folded_convolution_keeps_its_stride_padding_dilation_and_groups():
    convolution = nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2, bias=False)
    norm = FrozenBatchNorm2d(8)
    scatter_norms(nn.Sequential(norm))
    x = torch.randn(2, 4, 9, 11)
    assert torch.allclose(convolve(x, convolution, norm), norm(convolution(x)), atol=1e-5)
