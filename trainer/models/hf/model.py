"""Any object detector of the `transformers` library as a model of this trainer.

The network, its losses, denoising and matching are the library's; what is here makes its class head anew for the
user's classes and translates boxes, sizes and masks.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert

from trainer import checkpoint
from trainer.errors import TrainerError
from trainer.models.class_rows import choose_rows, match_names
from trainer.models.hf.family import PREFIX
from trainer.models.hf.source import Source, find_source, require_library
from trainer.models.interface import DetectionModel, Target, groups_without_decay

_log = logging.getLogger("trainer")


@dataclass
class Outputs:
    """What the network says about a batch, and what its losses are computed from."""

    logits: Tensor
    """`[B, Q, C]` for a sigmoid each, or `[B, Q, C + 1]` for a softmax whose last class is "no object"."""
    boxes: Tensor
    """`[B, Q, 4]`: cx, cy, w, h in fractions of the image, or of the padded image where `uses_mask` is false."""
    sizes: Tensor
    """`[B, 2]`: height and width in px of the images without padding."""
    padded: tuple[int, int]
    """Height and width in px of what the network saw."""
    loss_arguments: tuple[tuple[Any, ...], dict[str, Any]]
    """Of the library's loss function, of which the second is the labels."""


class HFDetector(DetectionModel):
    """A `*ForObjectDetection` of transformers behind this trainer's interface."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Builds the network of a complete spec (see `build`) with random weights."""
        super().__init__()
        self.spec = copy.deepcopy(dict(spec))
        self.figures = tuple(spec.get("figures", ("loss",)))
        self.pixel_mean, self.pixel_std = tuple(spec["pixel_mean"]), tuple(spec["pixel_std"])
        self.network = _network(spec)
        self._loss = self.network.loss_function
        self.network.loss_function = _defer_loss
        self._takes_mask = "pixel_mask" in inspect.signature(self.network.forward).parameters

    @property
    def uses_mask(self) -> bool:
        """Whether the network looks at the padding mask, and gives boxes in fractions of the unpadded image."""
        return bool(self.spec["uses_mask"])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.network.config.num_labels)

    def forward(self, images: Tensor, mask: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Detects objects.

        Args:
            images: uint8 `[B, 3, H, W]`.
            mask: bool `[B, H, W]`, True where padded.
            targets: the images' objects; in training some models also start queries from them.
        """
        sizes = torch.stack([(~mask[:, :, 0]).sum(1), (~mask[:, 0]).sum(1)], dim=1)
        height, width = (_fitting(side, self.network.config) for side in images.shape[2:])
        beyond = (0, width - images.shape[3], 0, height - images.shape[2])
        arguments: dict[str, Any] = {"pixel_values": functional.pad(self.normalize(images, mask), beyond)}
        if self._takes_mask:
            arguments["pixel_mask"] = (~functional.pad(mask, beyond, value=True)).long()
        # Without labels the library would not hand over what its losses are computed from.
        nothing = {"labels": mask.new_zeros(0, dtype=torch.int64), "boxes": sizes.new_zeros(0, 4)}
        labels = self._labels(targets or [nothing] * len(images), sizes, (height, width))
        said = self.network(**arguments, labels=labels)
        return Outputs(said.logits, said.pred_boxes, sizes, (height, width), said.loss_dict["arguments"])

    def _labels(self, targets: Sequence[Target], sizes: Tensor, padded: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Targets as the library names them, with boxes in fractions of what the network takes for the image."""
        scale = torch.ones_like(sizes, dtype=torch.float32)
        if not self.uses_mask:
            scale = sizes / torch.tensor(padded, device=sizes.device)
        scale = scale.flip(1).repeat(1, 2)
        return [
            {"class_labels": target["labels"], "boxes": target["boxes"].float() * factor}
            for target, factor in zip(targets, scale, strict=True)
        ]

    def normalizers(self, targets: Sequence[Target]) -> Tensor:
        """Two sums over images `[2]`: of objects, and of the class weights of all queries where "no object" has one.

        Summed over the parts of a batch and over processes, they make the losses of the parts add up.
        """
        config = self.network.config
        counts = [len(target["labels"]) for target in targets]
        queries = int(getattr(config, "num_queries", 0) or getattr(config, "num_detection_tokens", 0))
        rest = float(getattr(config, "eos_coefficient", 0.0))
        matched = sum(min(count, queries) for count in counts)
        return torch.tensor([float(sum(counts)), matched + rest * (queries * len(counts) - matched)])

    def losses(self, outputs: Outputs, targets: Sequence[Target], normalizers: Tensor) -> dict[str, Tensor]:
        """The library's weighted losses, under the names of `figures`, in float32.

        The library divides each loss by a sum over the images that it sees; here by that of the whole step. That is
        exact but for the distillation in D-FINE and DEIMv2, which the library averages over queries.

        Args:
            outputs: of `forward`; in training with the same targets.
            targets: of these images.
            normalizers: of the whole batch, averaged over the processes.
        """
        own = self.normalizers(targets).clamp(min=1)
        of_objects, of_weights = (own / normalizers.cpu().clamp(min=1)).tolist()
        with torch.autocast(outputs.logits.device.type, enabled=False):
            loss, parts = self._library_losses(outputs, targets)
        scale = dict.fromkeys(parts, of_objects)
        if self._softmax:
            # Cross-entropy is a mean under the class weights, in the library with a weight of 1 among the losses.
            scale |= {name: of_weights for name in parts if name.startswith("loss_ce")}
            entropy = torch.stack([value for name, value in parts.items() if name.startswith("loss_ce")]).sum()
            loss = (loss - entropy) * of_objects + entropy * of_weights
        else:
            loss = loss * of_objects
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            # Processes wait for the gradient of every weight, and in a batch without objects some have none.
            loss = loss + 0 * torch.stack([weight.sum() for weight in self.parameters() if weight.requires_grad]).sum()
        return {"loss": loss, **{name: parts[name].detach() * scale[name] for name in self.figures[1:]}}

    @property
    def _softmax(self) -> bool:
        """Whether the last class is "no object"."""
        return bool(self.spec["softmax"])

    def _library_losses(self, outputs: Outputs, targets: Sequence[Target]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the losses of all layers by the library's names."""
        (logits, _, *args), kwargs = _to_float32(outputs.loss_arguments)
        args = [logits, self._labels(targets, outputs.sizes, outputs.padded), *args]
        config = args[4]
        if getattr(config, "group_detr", 1) > 1 and not self.training:
            # The library would look for the groups of queries that there are in training only.
            config = copy.copy(config)
            config.group_detr = 1
        with _without_collectives() if hasattr(config, "group_detr") else contextlib.nullcontext():
            loss, parts, _ = self._loss(*args[:4], config, *args[5:], **kwargs)
        return loss, {name: value for name, value in parts.items() if name.startswith("loss")}

    @torch.no_grad()
    def detections(self, outputs: Outputs, sizes: Tensor) -> list[dict[str, Tensor]]:
        """Turns outputs into detections, as the models' image processors do.

        Args:
            outputs: of the model.
            sizes: `[B, 2]`, height and width in px of the images to draw on.

        Returns:
            For each image `scores` `[n]`, `labels` `[n]` and `boxes` `[n, 4]` (x0, y0, x1, y1 in px, within the image).
        """
        logits, boxes = outputs.logits.float(), box_convert(outputs.boxes.float(), "cxcywh", "xyxy")
        if self._softmax:
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        else:
            # A query may be sure of two classes: the best pairs of query and class, as many as there are queries.
            scores, best = logits.sigmoid().flatten(1).topk(logits.shape[1])
            labels, query = best % logits.shape[2], best // logits.shape[2]
            boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4))
        limit = sizes.to(boxes)
        scale = limit
        if not self.uses_mask:
            scale = limit * boxes.new_tensor(outputs.padded) / outputs.sizes.to(boxes)
        boxes = boxes * scale.flip(1).repeat(1, 2)[:, None]
        boxes = torch.minimum(boxes.clamp(min=0), limit.flip(1).repeat(1, 2)[:, None])
        found = {"scores": scores, "labels": labels, "boxes": boxes}
        return [{name: values[image] for name, values in found.items()} for image in range(len(sizes))]

    def parameter_groups(self, config: Any) -> list[dict[str, Any]]:
        """Parameters with their rates: the backbone's own, and no decay for norms and biases.

        Args:
            config: with `lr`, `lr_backbone` and `weight_decay`.
        """
        return groups_without_decay(self, config, lambda name: "backbone" in name.split("."))

    def freeze(self, part: str) -> None:
        """Keeps a part as it is; a `backbone` is looked for within the network.

        Raises:
            TrainerError: the network has no such part.
        """
        name = self._find(part)
        if name is None:
            raise TrainerError(f"{type(self.network).__name__} has no {part} of its own, so it cannot be frozen")
        super().freeze(name)

    def feature_module(self) -> nn.Module:
        """The backbone; the whole transformer of a model that has none, as YOLOS."""
        name = self._find("backbone")
        return self.network.base_model if name is None else self.get_submodule(name)

    def _find(self, part: str) -> str | None:
        """The outermost submodule of that name."""
        return next((name for name, _ in self.named_modules() if name.split(".")[-1] == part), None)

    def load_pretrained(self, source: str, class_names: Sequence[str] | None) -> None:
        """Loads initial weights; those of the class head stay for the classes that the source knows by name.

        Args:
            source: "published", for the weights of the model that the spec names; or the path of a checkpoint, or of
                the folder of a run.
            class_names: by label.

        Raises:
            TrainerError: the weights cannot be had, or are those of another model.
        """
        weights: dict[str, Tensor]
        known: list[str | None] | None
        if source == "published":
            origin = find_source(_source_name(self.spec))
            weights, known = _published(origin)
            where = self.spec["model"]
        else:
            file = checkpoint.find_checkpoint(source)
            if file is None:
                raise TrainerError(f"pretrained: {source} is not a checkpoint; give published, none, or a checkpoint")
            content, where = checkpoint.read(file), str(file)
            weights, known = content.get("model", {}), content.get("class_names")
            weights = {key.removeprefix("network."): value for key, value in weights.items()}
        if not isinstance(known, list):
            raise TrainerError(f"{where} does not name its classes; name a checkpoint that a training wrote")
        own = self.network.state_dict()
        class_keys = self._class_keys(len(known))
        loaded: dict[str, Tensor] = {}
        rows = match_names(known, known if class_names is None else class_names)
        for key, value in own.items():
            there = weights.get(key)
            if there is None:
                if key.endswith("num_batches_tracked"):
                    continue
                raise TrainerError(f"{where} has no weights for {type(self.network).__name__}: {key} is missing")
            if key in class_keys:
                there = _class_tensor(there, rows, known, where, key)
            if there.shape != value.shape:
                raise TrainerError(
                    f"{where} is not a checkpoint of this model: {key} has shape {list(there.shape)},"
                    f" not {list(value.shape)}"
                )
            loaded[key] = there
        self.network.load_state_dict(loaded, strict=False)
        _log.info("loaded %d tensors from %s", len(loaded), where)

    def _class_keys(self, other: int) -> set[str]:
        """Names of the tensors that have a row for each class."""
        if other == self.num_classes:
            other += 1
        config = {**self.spec["config"], **_classes(other)}
        sizes = {key: value.shape for key, value in _network({**self.spec, "config": config}).state_dict().items()}
        return {key for key, value in self.network.state_dict().items() if sizes[key] != value.shape}

    @torch.no_grad()
    def probe(self) -> dict[str, Any]:
        """What the library does not say about a model: whether it uses the mask, and what its losses are called.

        Raises:
            TrainerError: it fails, as models do that transformers cannot train.
        """
        self.spec.update(uses_mask=True, softmax=False)
        side = _fitting(128, self.network.config)
        mask = torch.zeros(1, side, side, dtype=torch.bool)
        padded = mask.clone()
        padded[:, :, side // 2 :] = True
        # The pixels are the same both times, and only the mask differs: normalised, those that are padded are 0.
        images = torch.arange(3 * side * side).reshape(1, 3, side, side) % 256.0
        images = torch.where(padded[:, None], torch.tensor(self.pixel_mean)[:, None, None], images)
        target = {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}
        was_training = self.training
        self.eval()
        try:
            whole, half = self(images, mask), self(images, padded)
            _, parts = self._library_losses(whole, [target])
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise TrainerError(f"{self.spec['model']} cannot be trained: {_first_line(error)}") from None
        finally:
            self.train(was_training)
        return {
            "figures": ["loss", *(name for name in parts if name.count("_") == 1)],
            "uses_mask": not (torch.equal(whole.logits, half.logits) and torch.equal(whole.boxes, half.boxes)),
            "softmax": whole.logits.shape[-1] == self.num_classes + 1,
        }


def build(spec: Mapping[str, Any]) -> HFDetector:
    """A model with random weights.

    Args:
        spec: `model`, "hf:" and the name of a published model; `num_classes`. What the published model is made of is
            looked up once, in its folder or on the hub, and is then part of the model's own spec, from which the same
            model is built without either: `config`, the library's, as plain values; `pixel_mean` and `pixel_std`, from
            the image processor; `license` of the weights and `revision` on the hub; `figures`; `uses_mask`; `softmax`.

    Raises:
        TrainerError: transformers is not installed; there is no such model, or it cannot be had; or it is not an
            object detector that transformers can train.
    """
    if "config" in spec:
        return HFDetector(spec)
    source = find_source(_source_name(spec))
    config = _read_config(source)
    _log.info(
        "%s is a %s; license of its weights: %s", spec["model"], config.model_type, source.license or "not stated"
    )
    found = {
        "config": _for_classes(config, spec["num_classes"]),
        "license": source.license,
        "revision": source.revision,
        **_pixels(source, config),
    }
    model = HFDetector({**spec, **found})
    model.spec.update(model.probe())
    model.figures = tuple(model.spec["figures"])
    return model


def _source_name(spec: Mapping[str, Any]) -> str:
    return str(spec["model"]).removeprefix(PREFIX)


def _defer_loss(*args: Any, **kwargs: Any) -> tuple[None, dict[str, Any], None]:
    """Stands in for the library's loss inside of `forward`: keeps what it is given, for `losses` to compute it."""
    return None, {"arguments": (args, kwargs)}, None


def _to_float32(value: Any) -> Any:
    """The same nested lists, tuples and dicts, with floating tensors in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _to_float32(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_float32(item) for item in value)
    return value


@contextlib.contextmanager
def _without_collectives() -> Iterator[None]:
    """Keeps LW-DETR's and RF-DETR's loss from counting objects over processes.

    In validation each process has batches of its own number and would wait for ever; in training `losses` does it.
    """
    from transformers.loss import loss_lw_detr as module

    name = "_is_torch_distributed_initialized"
    before = getattr(module, name)
    setattr(module, name, lambda: False)
    try:
        yield
    finally:
        setattr(module, name, before)


def _fitting(side: int, config: Any) -> int:
    """The next side in px that the network can take: a multiple of its largest stride."""
    backbone = getattr(config, "backbone_config", None)
    patch = int(getattr(backbone, "patch_size", 0) or 0)
    windows = int(getattr(backbone, "num_windows_side", 0) or getattr(backbone, "num_windows", 0) or 1)
    multiple = patch * windows if patch else 32
    return math.ceil(max(side, _smallest(config, patch)) / multiple) * multiple


def _smallest(config: Any, patch: int) -> int:
    """The least side in px whose cells are enough to choose the queries from, in models that do."""
    if getattr(config, "two_stage", False):
        queries, strides = config.two_stage_num_proposals, [8, 16, 32] if config.num_feature_levels > 1 else [32]
    elif hasattr(config, "feat_strides"):
        queries, strides = config.num_queries, config.feat_strides
    elif hasattr(config, "group_detr"):
        queries, strides = config.num_queries, [patch]
    else:
        return 1
    return math.ceil(math.sqrt(queries / sum(stride**-2 for stride in strides)))


def _quietly() -> Any:
    """The library, without progress bars and with its warnings left out: what matters is said here."""
    require_library()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _network(spec: Mapping[str, Any]) -> Any:
    """The library's network with random weights."""
    library = _quietly()
    values = dict(spec["config"])
    try:
        config = library.AutoConfig.for_model(values.pop("model_type"), **values)
        network = library.AutoModelForObjectDetection.from_config(config)
    except (ValueError, ImportError) as error:
        raise TrainerError(f"{spec['model']}: transformers {library.__version__}: {_first_line(error)}") from None
    _thaw(network)
    return network


def _thaw(network: Any) -> None:
    """Lets all stages but the first of a ResNet of the library's own train, as DETR's authors do.

    transformers 5.24 means to, but looks for names that this ResNet does not have, and keeps all of them still.
    """
    backbone = [(name, weight) for name, weight in network.named_parameters() if "backbone" in name.split(".")]
    if not any(weight.requires_grad for _, weight in backbone):
        for name, weight in backbone:
            weight.requires_grad_(any(f".stages.{stage}." in name for stage in (1, 2, 3)))


def _read_config(source: Source) -> Any:
    """The library's description of a detector."""
    library = _quietly()
    try:
        config = library.AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise TrainerError(f"hf:{source.name}: config.json cannot be used: {_first_line(error)}") from None
    if type(config) not in library.MODEL_FOR_OBJECT_DETECTION_MAPPING:
        raise TrainerError(
            f"hf:{source.name} is a {config.model_type}, which transformers has no trainable detector for;"
            " d_fine, rt_detr_v2 or deformable_detr are some that it has"
        )
    return config


def _classes(count: int) -> dict[str, dict[str, Any]]:
    """So many classes as the library's configurations have them; their names are in the checkpoint."""
    return {"id2label": {str(label): str(label) for label in range(count)}, "label2id": {}}


def _for_classes(config: Any, num_classes: int) -> dict[str, Any]:
    """A configuration as plain values, for other classes and for images of any size."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    values.pop("_name_or_path", None)
    values.update(_classes(num_classes))
    values["dtype"] = "float32"
    # Fixed sizes only save the library the computation of anchors and positions.
    values.update({name: None for name in ("anchor_image_size", "eval_size") if name in values})
    # The authors trained with a loss on every decoder layer, while the published configurations leave it off.
    if "decoder_layers" in values and "auxiliary_loss" in values:
        values["auxiliary_loss"] = True
    return values


def _pixels(source: Source, config: Any) -> dict[str, list[float]]:
    """Mean and deviation that the model's image processor subtracts and divides by, for pixels of 0 to 255."""
    library = _quietly()
    try:
        processor = library.AutoImageProcessor.from_pretrained(source.folder, local_files_only=True)
    except (OSError, ValueError):
        # RT-DETR and what was made from it take pixels of 0 to 1 as they are.
        plain = hasattr(config, "encoder_in_channels")
        processor = library.RTDetrImageProcessor() if plain else library.DetrImageProcessor()
        _log.info(
            "hf:%s has no preprocessor_config.json: pixels are taken as %s does", source.name, type(processor).__name__
        )
    step = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    return {"pixel_mean": [value / step for value in mean], "pixel_std": [value / step for value in std]}


def _published(source: Source) -> tuple[dict[str, Tensor], list[str | None]]:
    """The weights of a published model and the class of each row of its head."""
    library = _quietly()
    from safetensors import SafetensorError

    try:
        network, report = library.AutoModelForObjectDetection.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise TrainerError(f"hf:{source.name}: the weights cannot be loaded: {_first_line(error)}") from None
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked"))
    if missing:
        raise TrainerError(f"hf:{source.name}: the weights are not those of a detector: {missing[0]} is missing")
    names = {int(row): str(name) for row, name in network.config.id2label.items()}
    known = [names.get(row) for row in range(network.config.num_labels)]
    return network.state_dict(), [None if name in (None, "N/A") else name for name in known]


def _class_tensor(
    there: Tensor, rows: Sequence[int | None], known: Sequence[str | None], where: str, key: str
) -> Tensor:
    """Rows for the classes, and what comes behind those of the known ones: that of "no object"."""
    if len(there) not in (len(known), len(known) + 1):
        raise TrainerError(f"{where}: {key} has {len(there)} rows for {len(known)} classes")
    return torch.cat([choose_rows(there[: len(known)], rows, known), there[len(known) :]])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
