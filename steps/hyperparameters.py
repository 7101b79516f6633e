"""What `hyperparameters` takes, as a table or as a page. Needs no torch."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.table import Table

from steps.common.console import Screen, say
from steps.common.errors import StepError
from steps.options import MODELS, Model
from trainer.hyperparameters import Hyperparameter, hyperparameters, own_defaults
from trainer.models.choice import AUTO

INTRODUCTION = """\
# Hyperparameters

What the parameter `hyperparameters` takes, one `name: value` a line. What you do not set follows the size of the
dataset, each choice printed with its reason before training starts; with `recipe: paper`, and for all that the recipe
leaves open, the defaults below hold. `python -m steps hyperparameters --model NAME` prints the table of one model.

`make docs` generates this page from the declarations in `trainer/`.
"""
COLUMNS = ("Name", "Values", "Default", "Meaning")


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
