"""The workflow's parameters, each declared once.

Defaults and explanations come from the signatures of the steps that take them; what is added here is how a
form shows them. `{{workflow.parameters.NAME}}` in a container's arguments is `Parameter.reference`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from steps.annotate import annotate_tasks
from steps.cvat.address import STATES
from steps.dataset.model import CROWDS, FRAME_ORDERS
from steps.fetch import fetch_dump
from steps.options import MODEL_CHOICES
from steps.preparation.split import SPLITS
from steps.prepare import prepare_data
from steps.train import train_model

# What CVAT's form draws, as Onepanel's core names it.
TEXT = "input.text"
NUMBER = "input.number"
TEXTAREA = "textarea.textarea"
SELECT = "select.select"
NODE_POOL = "select.nodepool"

# Who sees a parameter: the forms of CVAT and Onepanel; a workspace's owner; the workflow's author.
PUBLIC = "public"
INTERNAL = "internal"
PRIVATE = "private"


@dataclass(frozen=True)
class Parameter:
    """A workflow parameter, with what Onepanel's forms need beside name and value."""

    name: str
    value: str
    display_name: str
    hint: str
    type: str = TEXT
    visibility: str = PUBLIC
    required: bool = False
    options: tuple[str, ...] = ()
    open: bool = False
    """Whether other values than the options are possible, which only a form's choice leaves out."""

    @property
    def reference(self) -> str:
        """What Argo replaces by the parameter's value."""
        return f"{{{{workflow.parameters.{self.name}}}}}"


def _of_step(function: Callable[..., Any], argument: str, name: str, display_name: str, **more: Any) -> Parameter:
    """Declare a parameter that is a step's argument: its default and its help are the step's."""
    default = inspect.signature(function).parameters[argument].default
    # What a step decides by itself when it is not told.
    value = "auto" if default is None else str(default)
    option = get_type_hints(function, include_extras=True)[argument].__metadata__[0]
    return Parameter(name, **{"value": value, "hint": option.help, "display_name": display_name, **more})


ANNOTATION_PATH = Parameter(
    name="cvat-annotation-path",
    value="annotation-dump/",
    display_name="Dataset path",
    hint="Key prefix of the annotated data in object storage. CVAT fills it in.",
    visibility=INTERNAL,
    required=True,
)
JOB_STATE = _of_step(
    fetch_dump, "state", "cvat-job-state", "Jobs to take", type=SELECT, options=STATES, visibility=INTERNAL
)
ANNOTATE = _of_step(annotate_tasks, "to", "cvat-annotate", "Tasks to annotate", value="")
OUTPUT_PATH = Parameter(
    name="cvat-output-path",
    value="workflow-data/output",
    display_name="Output path",
    hint="Key prefix, under the namespace, of the folder in which each run leaves its artifacts.",
    visibility=INTERNAL,
    required=True,
)
# The step takes addresses and files too, but CVAT answers 404 to what is no key prefix in the bucket.
CHECKPOINT = _of_step(
    train_model, "checkpoint", "cvat-finetune-checkpoint", "Checkpoint path",
    hint="Key prefix, in object storage, of an earlier run's folder or of a checkpoint in it, to start from. "
    "Empty: none.",
)  # fmt: skip
DUMP_FORMAT = _of_step(
    prepare_data, "dump_format", "dump-format", "CVAT dump format", visibility=PRIVATE, required=True,
)  # fmt: skip
MODEL = _of_step(train_model, "model", "model", "Model", type=SELECT, options=MODEL_CHOICES, open=True, required=True)
EPOCHS = _of_step(train_model, "epochs", "epochs", "Epochs", required=True)
BATCH_SIZE = _of_step(train_model, "batch_size", "batch-size", "Batch size", required=True)
VAL_SPLIT = _of_step(prepare_data, "val_split", "val-split", "Validation split", type=NUMBER, required=True)
SPLIT = _of_step(prepare_data, "split", "split", "Split", type=SELECT, options=SPLITS, required=True)
EXCLUDE = _of_step(prepare_data, "exclude", "exclude", "Attributes to leave out")
CROWD_REGIONS = _of_step(
    prepare_data, "crowds", "crowds", "COCO crowds", type=SELECT, options=CROWDS, visibility=INTERNAL
)
FRAME_ORDER = _of_step(
    prepare_data, "frame_order", "frame-order", "Frame order", type=SELECT, options=FRAME_ORDERS, visibility=INTERNAL
)
MAX_LOST = _of_step(prepare_data, "max_lost", "max-lost", "Accepted losses", type=NUMBER, visibility=INTERNAL)
HYPERPARAMETERS = _of_step(train_model, "hyperparameters", "hyperparameters", "Hyperparameters", type=TEXTAREA)
SEED = _of_step(prepare_data, "seed", "seed", "Seed", type=NUMBER, visibility=PRIVATE, required=True)
SOURCE = Parameter(
    name="source",
    value="https://github.com/cvat-detr/cvat-detr",
    display_name="Source code",
    hint="Git repository that each step installs its code from.",
    visibility=INTERNAL,
    required=True,
)
REVISION = Parameter(
    name="revision",
    value="main",
    display_name="Revision",
    hint="Branch or tag of the source code. Empty: the repository's default branch.",
    visibility=INTERNAL,
)
PYTORCH_IMAGE = Parameter(
    name="pytorch-image",
    value="pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime",
    display_name="PyTorch image",
    hint="Image in which the model is trained and evaluated.",
    visibility=INTERNAL,
    required=True,
)
SYS_NODE_POOL = Parameter(
    name="sys-node-pool",
    value="default",
    display_name="Node pool",
    hint="Name of the node pool that trains and evaluates.",
    type=NODE_POOL,
    required=True,
)

PARAMETERS = (
    ANNOTATION_PATH,
    OUTPUT_PATH,
    CHECKPOINT,
    DUMP_FORMAT,
    MODEL,
    EPOCHS,
    BATCH_SIZE,
    VAL_SPLIT,
    SPLIT,
    EXCLUDE,
    CROWD_REGIONS,
    FRAME_ORDER,
    MAX_LOST,
    HYPERPARAMETERS,
    SEED,
    JOB_STATE,
)
"""What every form of the workflow has, in the order in which forms show them."""
