"""What a detector is to the trainer: everything outside `trainer/models/` knows a model by this alone.

A family of detectors is a folder beside `detr/` with a `DetectionModel`, a function `build(spec)` that makes one, and
a `Family` (see `family.py`) that `registry.py` lists.

One training step, over all processes:

    whole = model.normalizers(batch.targets), averaged over the processes
    with autocast:
        outputs = model(images, mask, targets)           # the one call through DistributedDataParallel
    losses = model.losses(outputs, targets, whole)       # once for each part of an accumulated batch
    losses["loss"].backward()

and one of prediction:

    with autocast:
        outputs = model(images, mask)
    found = model.detections(outputs, sizes)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.data.batch import normalize
from trainer.errors import TrainerError

Target = dict[str, Tensor]
"""One image's objects: `labels` int64 `[n]` in 0..C-1; `boxes` float32 `[n, 4]` as cx, cy, w, h in fractions of the
unpadded image; `image_id` `[1]`; `orig_size` and `size` `[2]`, height and width in px before and after the resize."""


class DetectionModel(nn.Module, ABC):
    """A network with its losses, its decoding and its initial weights."""

    spec: dict[str, Any]
    """Plain values (numbers, strings, lists, dicts) from which the family's `build(spec)` makes the same module with
    random weights. Saved in every checkpoint together with the family's name."""

    figures: tuple[str, ...]
    """Names of what `losses` reports, `loss` first; the same for a whole run. Log, charts and early stopping take
    their names from here."""

    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    """Mean and deviation of red, green and blue, in levels of 0 to 255, for `normalize`."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: set[str] = set()

    @abstractmethod
    def forward(self, images: Tensor, mask: Tensor, targets: Sequence[Target] | None = None) -> Any:
        """Runs the network.

        Args:
            images: uint8 `[B, 3, H, W]`, padded at the right and the bottom; the model normalises them itself.
            mask: bool `[B, H, W]`, True where padded.
            targets: the images' objects, in training only. Most models have no use for them here.

        Returns:
            Whatever `losses` and `detections` of the same model take.
        """

    @abstractmethod
    def normalizers(self, targets: Sequence[Target]) -> Tensor:
        """What the sums in `losses` are to be divided by, such as the number of objects.

        Returns:
            float32 `[n]`, on any device: sums over the given images. The trainer sums them over all processes and
            divides by their number, once a step and for the whole of a batch.
        """

    @abstractmethod
    def losses(self, outputs: Any, targets: Sequence[Target], normalizers: Tensor) -> dict[str, Tensor]:
        """Measures a forward pass, or that of a part of a batch.

        Args:
            outputs: of `forward`, for these images.
            targets: of these images.
            normalizers: as `normalizers` gives them, of the whole batch and averaged over the processes.

        Returns:
            Under the names in `figures`, float32 scalars. `loss` is minimised. Losses are weighted, and each
            figure adds up over the parts of a batch, which dividing by the normalizers takes care of. A model that
            can tell its losses in training mode only gives an empty dict in evaluation mode.
        """

    @abstractmethod
    def detections(self, outputs: Any, sizes: Tensor) -> list[dict[str, Tensor]]:
        """Decodes a forward pass in evaluation mode.

        Args:
            outputs: of `forward`, for B images.
            sizes: `[B, 2]`, height and width in px of the images to give boxes for.

        Returns:
            For each image `scores` `[n]` in 0..1, `labels` int64 `[n]` and `boxes` `[n, 4]` (x0, y0, x1, y1 in px).
        """

    def decode(self, outputs: Any, sizes: Tensor) -> dict[str, Tensor]:
        """As `detections`, in tensors of one shape for all images, which is what an exported graph can give.

        Returns:
            `scores` `[B, N]`, `labels` int64 `[B, N]` and `boxes` `[B, N, 4]`, in any order; what is no detection
            has the score 0.

        Raises:
            TrainerError: the model cannot, and so cannot be exported as a graph.
        """
        raise TrainerError(
            f"{self.spec['model']} cannot be exported as a graph for images of any number and size: "
            "export it to safetensors"
        )

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """The weights that train, as groups for AdamW, each with `params` and its `lr`.

        The default gives what is under `backbone.` the rate `config.lr_backbone` and all else `config.lr`. A group may
        also have a `weight_decay` of its own.
        """
        named = [(name, weight) for name, weight in self.named_parameters() if weight.requires_grad]
        return [
            {"params": [w for name, w in named if not name.startswith("backbone.")], "lr": config.lr},
            {"params": [w for name, w in named if name.startswith("backbone.")], "lr": config.lr_backbone},
        ]

    def freeze(self, part: str) -> None:
        """Keeps a part as it is: no gradients, and statistics of batch normalisation stay still in training too.

        Args:
            part: name of a submodule. Every model has a `backbone`.
        """
        self._frozen.add(part)
        self.get_submodule(part).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> DetectionModel:
        """As `nn.Module.train`, but frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            self.get_submodule(part).train(False)
        return self

    def feature_module(self) -> nn.Module:
        """The part whose output ends with the map `[B, C, h, w]` (or the tokens `[B, n, C]`) that tells images apart.

        What it gives may be any nesting of lists, dicts and tensors; the last map in it counts.

        Raises:
            TrainerError: there is no such part.
        """
        return self.get_submodule("backbone")

    def load_pretrained(self, source: str, class_names: Sequence[str] | None) -> None:
        """Loads initial weights into a freshly built model; may change `spec` to match them.

        Args:
            source: "coco", "imagenet", the path of a checkpoint, or that of the folder of a run.
            class_names: of the model, by label. Class weights are kept for the classes that the source knows by name.

        Raises:
            TrainerError: the weights cannot be had or do not fit.
        """
        raise TrainerError(f"there are no weights to start {type(self).__name__} from; set pretrained to none")

    def normalize(self, images: Tensor, mask: Tensor) -> Tensor:
        """float32 `[B, 3, H, W]` with this model's mean 0 and deviation 1, and 0 where padded."""
        return normalize(images, mask, self.pixel_mean, self.pixel_std)


def groups_without_decay(
    model: nn.Module, config: TrainConfig, in_backbone: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """Parameter groups in which norms and biases, all weights of one dimension, do not decay.

    Args:
        model: whose weights are to be trained, those without gradients aside.
        config: with the rates and the weight decay.
        in_backbone: whether the weight of a name has the backbone's rate.
    """
    groups = []
    for backbone, rate in ((False, config.lr), (True, config.lr_backbone)):
        for flat, decay in ((False, config.weight_decay), (True, 0.0)):
            chosen = [
                weight
                for name, weight in model.named_parameters()
                if weight.requires_grad and in_backbone(name) == backbone and (weight.ndim <= 1) == flat
            ]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return groups
