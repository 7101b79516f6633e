"""What the workflow, its checks and its ways to run agree on: paths, names, labels, ports."""

from pathlib import Path

from steps.storage.config import ONEPANEL_CONFIG_DIR

STEPS_COMMAND = ["python", "-m", "steps"]
"""How the arguments of each container begin; the step's name follows."""

DATA = "/mnt/data"
OUTPUT = "/mnt/output"
CODE = "/mnt/src"
VOLUMES = {"data": DATA, "output": OUTPUT}
"""Volumes that live as long as the workflow, and where each container mounts them."""

BOXES = (
    "fetch-dump", "prepare-data", "remember-data", "train-detr", "evaluate", "upload-artifacts", "promote-model",
    "annotate",
)  # fmt: skip
"""The steps as users see them: names of the DAG's tasks and of their templates."""

SCRATCH = "/tmp"  # noqa: S108 - a path in a pod
"""The one place beside the volumes where a step writes: caches, and the packages that its pod installs."""
PACKAGES = f"{SCRATCH}/packages"
TENSORBOARD_PACKAGES = f"{SCRATCH}/tensorboard"
POD_VARIABLES = ("HOME", "PYTHONPATH")
"""Variables that say where things are in a pod, and mean nothing elsewhere."""
LOCKS = f"{CODE}/requirements"
"""Names of packages with versions and hashes, which pods without an image of their own install; `make lock`."""

METRICS_FILE = "/tmp/sys-metrics.json"  # noqa: S108 - where Onepanel's core looks for it
ONEPANEL_CONFIG = str(ONEPANEL_CONFIG_DIR)
ONEPANEL_VOLUME = "onepanel-config"
"""Not "onepanel": Argo mounts the secret of that name, which has the artifact repository's keys, as a volume that is
named after it."""

LABELS = {"used-by": "cvat"}
"""CVAT offers only templates that carry it."""

SWEEP_LABEL = "cvat-detr/sweep"
"""On each workflow of a sweep, the sweep's name."""

TENSORBOARD_PORT = 6006

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
"""The compiled manifests, which are committed; absent where the project is installed without its repository."""
WORKFLOW = MANIFESTS / "argo" / "detr-training.workflow.yaml"
ONEPANEL_SPEC = MANIFESTS / "onepanel" / "detr-training.yaml"
