"""The boxes of the pipeline, one plain function a file; none of them knows who calls it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steps.checkpoint import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # On first use: importing a step must not import what all of the others need.
    if name != "load":
        raise AttributeError(f"module 'steps' has no attribute {name!r}")
    from steps.checkpoint import load

    return load
