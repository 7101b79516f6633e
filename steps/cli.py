"""The steps as commands. Every flag comes from a function's signature."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import typer

from steps.common.console import create_app, log_to, run_app, usage_error
from steps.common.errors import StepError
from steps.common.stopping import end_on_sigterm
from trainer.errors import TrainerError


class _Steps(dict[str, Any]):
    """The steps by name: the function of each, which lies in the module of that name.

    It is imported when it is first looked up: no command waits for what others need.
    """

    def __getitem__(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] | str = super().__getitem__(name)
        if isinstance(function, str):
            self[name] = function = getattr(import_module(f"steps.{name.replace('-', '_')}"), function)
        return function  # type: ignore[return-value] # The name was just replaced by what it names.


STEPS = _Steps(
    {
        "fetch": "fetch_dump",
        "prepare": "prepare_data",
        "remember": "remember_data",
        "train": "train_model",
        "evaluate": "evaluate_model",
        "upload": "upload_artifacts",
        "promote": "promote_model",
        "annotate": "annotate_tasks",
        "predict": "predict_images",
        "export": "export_model",
    }
)

EXAMPLES = {
    "fetch": "fetch --annotation-path task.zip --dataset-dir data",
    "prepare": "prepare --dataset-dir data --val-split 10",
    "remember": "remember --dataset-dir data",
    "train": "train --dataset-dir data --output-dir run --hyperparameters 'lr: 0.0002'",
    "evaluate": "evaluate --dataset-dir data --output-dir run",
    "upload": "upload --output-dir run --output-path s3://bucket/models/1",
    "promote": "promote --dataset-dir data --output-dir run --series s3://bucket/models/cells",
    "annotate": "annotate --checkpoint run --to https://cvat.example.com/tasks/43",
    "predict": "predict --checkpoint run --images photos --output predictions",
    "export": "export --checkpoint run --export-dir model --to onnx",
}


def command_line(names: Iterable[str] = STEPS) -> typer.Typer:
    """Make the command line of the named steps, of all unless some are named."""
    app = create_app("python -m steps", "Run one step of the pipeline.")
    for name in names:
        function = STEPS[name]
        epilog = f"Example:\n\n\b\n  python -m steps {EXAMPLES[name]}" if name in EXAMPLES else None
        app.command(name, help=sys.modules[function.__module__].__doc__, epilog=epilog)(function)
    if names is STEPS:
        app.command("hyperparameters")(import_module("steps.hyperparameters").show_hyperparameters)
    return app


def takes_storage(name: str) -> bool:
    """Tell whether a step reads or writes objects, and so needs to know the bucket and its keys."""
    return name in STEPS and "bucket" in inspect.signature(STEPS[name]).parameters


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Read a command line as `python -m steps` does, without running it.

    Args:
        arguments: what follows `python -m steps`: the step's name, then its flags.

    Returns:
        The step's name and its arguments by name.

    Raises:
        StepError: a flag is unknown or a value is wrong.
    """
    name, *flags = arguments
    if name not in STEPS:
        raise StepError(f"there is no step '{name}': the steps are {', '.join(STEPS)}")
    group: Any = typer.main.get_command(command_line([name]))
    try:
        return name, dict(group.commands[name].make_context(name, flags).params)
    except typer.TyperException as error:
        raise StepError(usage_error(error)) from None


def main() -> None:
    """Run a step.

    Exit status: 0 on success; with one line, 2 on a user error and 75 on what may pass; 1 with a traceback on a defect;
    143 after SIGTERM.
    """
    end_on_sigterm()
    log_to(sys.stdout)
    for noisy in ("boto3", "botocore", "urllib3", "matplotlib", "PIL", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asked = [name for name in sys.argv[1:2] if name in STEPS]
    sys.exit(run_app(lambda: command_line(asked or STEPS), StepError, TrainerError))
