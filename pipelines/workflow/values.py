"""Values of the compile options: what Kubernetes takes, checked and, where forms differ, brought to one."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

# As in Kubernetes: k8s.io/apimachinery, pkg/util/validation and pkg/api/resource.
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUANTITY = r"[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE])?"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _matching(pattern: str, length: int, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if value and (len(value) > length or not re.fullmatch(pattern, value)):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def _text(value: Any) -> Any:
    # YAML reads 7 and 0.5 as numbers.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def seconds(value: str) -> int:
    """Read a duration such as 30m, 12h or 7d; 0 if it is empty.

    Raises:
        ValueError: it is none.
    """
    if not value:
        return 0
    match = re.fullmatch(r"([0-9]+)([smhd])", value)
    if not match:
        raise ValueError("expected a duration: a whole number and s, m, h or d, such as 12h")
    return int(match[1]) * _UNITS[match[2]]


def _duration(value: str) -> str:
    seconds(value)
    return value


_WORDS = "lower-case letters, digits and '-', which begin and end with a letter or digit"
ShortName = Annotated[str, _matching(_LABEL, 50, f"at most 50 {_WORDS}"), Field(min_length=1)]
"""Of a workflow: Argo adds a suffix, and the names of pods and labels have room for 63 characters."""
Label = Annotated[str, _matching(_LABEL, 63, f"at most 63 {_WORDS}")]
ObjectName = Annotated[str, _matching(_SUBDOMAIN, 253, f"{_WORDS}; and '.'")]
Image = Annotated[str, _matching(r"\S+", 500, "an image, such as registry.example.com/team/image:tag")]
LabelKey = Annotated[
    str,
    _matching(
        rf"({_SUBDOMAIN}/)?([A-Za-z0-9][-A-Za-z0-9_.]{{0,61}})?[A-Za-z0-9]",
        317,
        "a label's key, such as node.kubernetes.io/instance-type",
    ),
    Field(min_length=1),
]
Quantity = Annotated[
    str, BeforeValidator(_text), _matching(_QUANTITY, 30, "a quantity, such as 500m, 2 or 50Gi"), Field(min_length=1)
]
Duration = Annotated[str, BeforeValidator(_text), AfterValidator(_duration)]
Count = Annotated[int, Field(ge=0, le=1000)]


def _variables(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"'{name}' is not a variable's name")
    return value


Variables = Annotated[dict[str, str], AfterValidator(_variables)]
