"""The templates of the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.common.messages import unmarked

# jinja2 is imported where it is used: a pod that only moves files has none.


def render(template: str, **values: Any) -> str:
    """Fill a template beside this file in; a value that it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        # Class and file names reach the page only through here; charts are drawn with their own titles.
        finalize=lambda value: unmarked(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
