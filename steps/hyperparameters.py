"""What `hyperparameters` takes: the list of it, and the check of what was given. Needs no torch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from steps.common.console import Screen, say
from steps.common.errors import StepError
from steps.common.files import parse_yaml
from steps.options import MODELS, Model
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.hyperparameters import Hyperparameter, hyperparameters, own_defaults
from trainer.models.choice import AUTO, CANDIDATES

INTRODUCTION = """\
# Hyperparameters

What the parameter `hyperparameters` takes, one `name: value` a line. What you do not set follows the size of the
dataset, each choice printed with its reason before training starts; with `recipe: paper`, and for all that the recipe
leaves open, the defaults below hold. `python -m steps hyperparameters --model NAME` prints the table of one model.

`make docs` generates this page from the declarations in `trainer/`.
"""
COLUMNS = ("Name", "Values", "Default", "Meaning")


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


def show_hyperparameters(
    model: Model = "ddq_lite0",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/hyperparameters.md, about all models.")
    ] = False,
) -> None:
    """Print the hyperparameters of a model, or the page about those of all."""
    if markdown:
        say(page().rstrip("\n"))
        return
    if model == AUTO:
        raise StepError(f"--model {AUTO} is any of several models: name one of {', '.join(MODELS)}")
    table = Table(*COLUMNS, title=model)
    for each in hyperparameters(model):
        table.add_row(*_cells(each))
    Screen().print(table)


def page() -> str:
    """Write the page about the hyperparameters of all models, in Markdown."""
    sections: dict[str, dict[str, Hyperparameter]] = {}
    changes = own_defaults()
    # The last one written stays: the default as declared, where any model keeps it.
    for model in sorted(MODELS, key=lambda model: -len(changes[model])):
        for each in hyperparameters(model):
            sections.setdefault(each.family, {})[each.name] = each
    parts = [INTRODUCTION]
    for family in sorted(sections):
        heading = f"Models of the family `{family}`" if family else "Every model"
        parts += [f"## {heading}\n", _markdown(COLUMNS, map(_cells, sections[family].values()))]
    changed = [
        (f"`{model}`", ", ".join(f"`{name}: {value}`" for name, value in settings.items()) or "none")
        for model, settings in changes.items()
    ]
    parts += ["## Defaults that a model changes\n", _markdown(("Model", "Defaults of its own"), changed)]
    return "\n".join(parts)


def _cells(each: Hyperparameter) -> tuple[str, ...]:
    return (each.name, each.values, each.default, each.meaning)


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
