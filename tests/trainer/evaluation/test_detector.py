from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.building import build_model
from tests.trainer.models.ddq.conftest import small_model
from tests.trainer.models.hf.tiny import save_tiny
from trainer import checkpoint
from trainer.data.coco_dataset import Category
from trainer.errors import TrainerError
from trainer.evaluation.detector import Detector, _mean, load
from trainer.models import registry
from trainer.models.interface import DetectionModel


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the small model with random weights and two classes."""
    torch.manual_seed(0)
    model = build_model("detr_tiny", 2, num_queries=6)
    file = tmp_path_factory.mktemp("detector") / "best.pth"
    content = {
        "model": model.state_dict(),
        "family": "detr",
        "spec": model.spec,
        "class_names": ["nut", "bolt"],
        "category_ids": [4, 17],
        "image_size": 64,
        "max_size": 96,
    }
    checkpoint.save(file, content)
    return file


def test_a_checkpoint_comes_back_ready_to_predict(path: Path):
    detector = load(path, device="cpu")
    assert detector.class_names == ["nut", "bolt"]
    assert detector.category_ids == [4, 17]
    assert not detector.model.training
    weights = checkpoint.read(path)["model"]
    assert all(torch.equal(value, weights[name]) for name, value in detector.model.state_dict().items())


def test_predictions_are_sorted_cut_at_the_edge_and_in_pixels_of_the_image(path: Path):
    detector = load(path, device="cpu")
    images = [Image.new("L", (300, 150), 200), Image.new("RGB", (50, 70), (9, 80, 200))]
    found = detector.predict(images, threshold=0)
    for detections, image in zip(found, images, strict=True):
        assert detections["scores"].shape == detections["labels"].shape == (6,)
        assert detections["scores"].tolist() == sorted(detections["scores"].tolist(), reverse=True)
        assert set(detections["labels"].tolist()) <= {0, 1}
        x0, y0, x1, y1 = detections["boxes"].unbind(1)
        assert (x0 >= 0).all()
        assert (y0 >= 0).all()
        assert (x1 <= image.width).all()
        assert (y1 <= image.height).all()
        # A random model puts its boxes about the middle: the scale shows in the coordinates.
        assert x1.max() > image.width / 3
        assert y1.max() > image.height / 3


def test_an_image_that_the_camera_turned_is_seen_upright(path: Path):
    detector = load(path, device="cpu")
    upright = Image.effect_noise((80, 48), 90).convert("RGB")
    # Orientation 6: a viewer turns the stored pixels by 90 degrees clockwise.
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    assert turned.size == (48, 80)
    (wanted,), (found,) = (detector.predict([image], threshold=0) for image in (upright, turned))
    assert torch.equal(found["boxes"], wanted["boxes"])
    assert torch.equal(found["scores"], wanted["scores"])


def test_a_threshold_leaves_out_the_rest(path: Path):
    detector, image = load(path, device="cpu"), Image.new("RGB", (64, 64))
    every = detector.predict([image], threshold=0)[0]
    scores = every["scores"]
    (kept,) = detector.predict([image], threshold=scores[2].item())
    assert kept["scores"].tolist() == scores[:3].tolist()
    assert len(detector.predict([image], threshold=1.0)[0]["boxes"]) == 0
    # Left alone, each class has its own.
    label = int(every["labels"][0])
    detector.thresholds = [1.0, 1.0]
    detector.thresholds[label] = scores[every["labels"] == label][-1].item()
    (kept,) = detector.predict([image])
    assert kept["scores"].tolist() == scores[every["labels"] == label].tolist()


def test_the_thresholds_are_the_operating_points_of_the_checkpoint(path: Path, tmp_path: Path):
    assert load(path, device="cpu").thresholds == [0.5, 0.5]
    points = {"overall": {"score": 0.4}, "per_class": {"nut": {"score": None}, "bolt": {"score": 0.7}}}
    checkpoint.save(tmp_path / "best.pth", {**checkpoint.read(path), "operating_points": points})
    assert load(tmp_path / "best.pth", device="cpu").thresholds == [0.4, 0.7]


def model_of(kind: str, folder: Path) -> DetectionModel:
    """A small model with random weights and two classes."""
    torch.manual_seed(0)
    family, _, of_library = kind.partition(":")
    if family == "detr":
        return build_model("detr_tiny", 2, num_queries=6)
    if family == "ddq":
        return small_model(2)
    name = "fasterrcnn_lite0"
    if family == "hf":
        pytest.importorskip("transformers")
        name = f"hf:{save_tiny(of_library, folder)}"
    return registry.family(family).build({"model": name, "num_classes": 2})


def noise(width: int) -> Image.Image:
    generator = torch.Generator().manual_seed(width)
    return Image.fromarray(torch.randint(0, 256, (64, width, 3), dtype=torch.uint8, generator=generator).numpy())


@pytest.mark.parametrize("kind", ["detr", "ddq", "fasterrcnn", "hf:d_fine", "hf:rf_detr", "hf:yolos"])
def test_every_family_has_features_that_tell_images_apart(kind: str, tmp_path: Path):
    classes = [Category(1, "nut"), Category(2, "bolt")]
    detector = Detector(model_of(kind, tmp_path).eval(), classes, 64, 128, torch.device("cpu"), [0.5, 0.5])
    image, other = noise(64), Image.new("RGB", (64, 64), (200, 30, 30))
    ((plain,), (alone,), (unlike,)) = (
        detector.predict([each], 0, features=wanted) for each, wanted in ((image, False), (image, True), (other, True))
    )
    padded, _ = detector.predict([image, noise(128)], 0, features=True)
    features = alone.pop("features")
    assert features.shape == (len(features),) == padded["features"].shape
    assert all(torch.equal(plain[name], value) for name, value in alone.items())
    difference = (features - unlike["features"]).norm()
    assert difference > 0.1 * features.norm()
    # Near the border a map knows of the padding.
    assert (features - padded["features"]).norm() < difference


def test_features_leave_the_padding_out():
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[0, :, 64:] = True
    values = torch.tensor([[[1.0, 3.0, 90.0], [5.0, 7.0, 90.0]], [[1.0, 3.0, 5.0], [5.0, 7.0, 9.0]]])
    assert _mean(values[:, None], mask).tolist() == [[4.0], [5.0]]


def test_no_images_no_predictions(path: Path):
    assert load(path, device="cpu").predict([]) == []


def test_weights_without_classes_are_refused(tmp_path: Path):
    checkpoint.save(tmp_path / "official.pth", {"model": {}})
    with pytest.raises(TrainerError, match=r"official\.pth has no 'category_ids'"):
        load(tmp_path / "official.pth")
