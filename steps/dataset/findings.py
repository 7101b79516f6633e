"""What was wrong in a dump, by the rule that met it: counted, with the first offenders by name."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

from steps.common.messages import printable, some

Action = Literal["repaired", "dropped", "skipped", "lost", "noted"]
"""`repaired`: used, other than written. `dropped`: no use could be made of it. `skipped`: left out on purpose.
`lost`: the format cannot hold it. `noted`: used as it is, and worth knowing."""
ACTIONS: tuple[Action, ...] = get_args(Action)
EXAMPLES = 20
"""How many offenders the report names."""
LOOKED_AT = 50 * EXAMPLES
"""Offenders among which the report's are found: boxes of one image have one name."""


@dataclass
class Finding:
    """How often a rule applied, and to whom first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """The findings of a run; every rule is a few words, the same for every offender."""

    def __init__(self) -> None:
        self._found: dict[Action, dict[str, Finding]] = {action: {} for action in ACTIONS}

    def note(self, action: Action, what: str, where: str = "", count: int = 1) -> None:
        """Count an offender.

        Args:
            action: what was done with it.
            what: the rule in words, without names ("box outside its image").
            where: the offender: an image, an annotation, a file. Empty: there is none to name.
            count: how many there were.
        """
        self.note_all(action, what, [where] if where else [], count)

    def note_all(self, action: Action, what: str, where: Iterable[str], count: int) -> None:
        """Count `count` offenders; only the first of `where` are looked at. A count of 0 is not a finding."""
        if not count:
            return
        finding = self._found[action].setdefault(what, Finding())
        finding.count += count
        for name in islice(where, LOOKED_AT):
            if len(finding.examples) >= EXAMPLES:
                break
            # An image with several bad boxes is named once.
            if (shown := printable(name)) not in finding.examples:
                finding.examples.append(shown)

    def count(self, action: Action) -> int:
        """How many offenders met this end."""
        return sum(finding.count for finding in self._found[action].values())

    def report(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Give the findings as they are written: by action, then by rule, `count` and `examples`."""
        return {
            action: {
                what: {"count": finding.count, "examples": finding.examples} for what, finding in sorted(found.items())
            }
            for action, found in self._found.items()
        }

    def lines(self) -> list[str]:
        """Give the findings as lines of a log."""
        return [
            f"{action}: {finding.count} x {what}"
            + (f" ({some(finding.examples, finding.count)})" * bool(finding.examples))
            for action, found in self._found.items()
            for what, finding in sorted(found.items())
        ]
