"""The settings of a training as a user writes them: read, and checked where neither torch nor the data is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.common.errors import StepError
from steps.common.files import parse_yaml
from steps.options import MODELS
from trainer.errors import TrainerError
from trainer.models.choice import AUTO, CANDIDATES


def parse_hyperparameters(text: str) -> dict[str, Any]:
    """Read the settings that a user wrote, by name.

    Raises:
        StepError: it is not YAML with names and values.
    """
    try:
        settings = parse_yaml(text)
    except ValueError as error:
        raise StepError(f"--hyperparameters is not readable YAML ({error})") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise StepError(f"--hyperparameters is {text.strip()[:60]!r}: write one 'name: value' a line")
    return {str(name): value for name, value in settings.items()}


def check_settings(
    model: str = AUTO,
    epochs: int | None = None,
    batch_size: int | None = None,
    hyperparameters: str = "",
    checkpoint: str = "",
) -> None:
    """Refuse what training would refuse, where there is neither torch nor the data: before a GPU is waited for.

    What `auto` will be is not known here: settings pass that suit any model it can be.

    Raises:
        StepError: a setting is unknown (with the nearest names) or out of range.
    """
    overrides = parse_hyperparameters(hyperparameters)
    if not overrides and (model, epochs, batch_size, checkpoint.strip()) == (AUTO, None, None, ""):
        return
    # Deferred: where nothing is given there is nothing to wait for.
    from trainer.config import TrainConfig

    named = str(overrides.get("model") or model)
    models: Sequence[str] = [named]
    if named == AUTO:
        models = CANDIDATES
        if checkpoint.strip() or "pretrained" in overrides:
            # A checkpoint names its own model.
            models = [*models, *MODELS]
    errors: list[TrainerError] = []
    for each in models:
        try:
            TrainConfig.create(
                {**overrides, "model": each},
                dataset_dir=Path(),
                output_dir=Path(),
                epochs=epochs,
                batch_size=batch_size,
            )
        except TrainerError as error:
            errors.append(error)
        else:
            return
    raise StepError(str(errors[0]))
