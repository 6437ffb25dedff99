"""What a drill found: each figure beside its limit, MISSED where it fails."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MISSED = "MISSED"


@dataclass
class Figure:
    """One measured value. Met when it is no more than its limit, or where it has none; NaN is never met."""

    name: str
    value: float
    limit: float | None = None
    unit: str = ""

    @property
    def is_met(self) -> bool:
        # What could not be measured, NaN, is no success.
        return not math.isnan(self.value) and (self.limit is None or self.value <= self.limit)

    @property
    def is_late(self) -> bool:
        """Whether it is a time, was measured, and is missed."""
        return self.unit == "s" and math.isfinite(self.value) and not self.is_met

    @property
    def text(self) -> str:
        """As in `0.53 s ≤ 2 s`."""
        shown = _number(self.value, self.unit)
        if self.limit is None:
            return shown if self.is_met else f"{shown} {MISSED}"
        if self.is_met:
            return f"{shown} ≤ {_number(self.limit, self.unit)}"
        return f"{shown} > {_number(self.limit, self.unit)} {MISSED}"


@dataclass
class Scenario:
    """One disaster of a drill. What is None is not part of it, and shown as such."""

    name: str
    recorded: int | None = None
    """How many records the log has afterwards."""
    acknowledged: int | None = None
    """How many of them callers were told of."""
    lost: Figure | None = None
    """How many that callers were told of are not in the log as they were told."""
    outage: Figure | None = None
    """Seconds in which no write was acknowledged."""
    resumed: Figure | None = None
    """Seconds until everything pending was resumed."""
    verified: bool | None = None
    """Whether the log has no gap and no record twice, and verifies."""
    problems: list[str] = field(default_factory=list)
    """What else went wrong, in words; each is a miss."""
    figures: list[Figure] = field(default_factory=list)
    """The drill's own."""

    def figure(self, name: str, value: float, limit: float | None = None, unit: str = "s") -> None:
        """Adds a figure of the drill's own: no more than its limit is wanted, if it has one."""
        self.figures.append(Figure(name, value, limit, unit))

    def expect(self, holds: bool, otherwise: str) -> None:
        """Something that has to hold; what to say when it does not."""
        if not holds:
            self.problems.append(otherwise)

    @property
    def late(self) -> list[str]:
        """What took longer than it may, in words."""
        return [f"{name}: {figure.text}" for name, figure in self._missed_figures() if figure.is_late]

    @property
    def missed(self) -> list[str]:
        """All that was missed, in words; empty when all is well."""
        missed = [f"{name}: {figure.text}" for name, figure in self._missed_figures()]
        if self.verified is False:
            missed.append("the log does not verify")
        return missed + self.problems

    def _missed_figures(self) -> list[tuple[str, Figure]]:
        named = {"lost": self.lost, "outage": self.outage, "all resumed": self.resumed}
        figures = [(name, figure) for name, figure in named.items() if figure]
        figures += [(figure.name, figure) for figure in self.figures]
        return [(name, figure) for name, figure in figures if not figure.is_met]


@dataclass
class Report:
    """A drill's scenarios."""

    drill: str
    scenarios: list[Scenario] = field(default_factory=list)
    failure: str | None = None
    """Why the drill could not be ended; then it is a miss, whatever else was found."""
    seconds: float = 0.0
    """How long the drill took."""

    def scenario(self, name: str) -> Scenario:
        """Begins a scenario."""
        self.scenarios.append(Scenario(name))
        return self.scenarios[-1]

    @property
    def missed(self) -> list[str]:
        """All that was missed, in words. A drill that measured nothing has missed."""
        missed = [f"{scenario.name}: {what}" for scenario in self.scenarios for what in scenario.missed]
        if self.failure is not None:
            missed.append(self.failure)
        elif not self.scenarios:
            missed.append("it measured nothing")
        return missed

    @property
    def is_only_late(self) -> bool:
        """Whether all that was missed are times, which a machine that is busy with something else makes longer."""
        late = sum(len(scenario.late) for scenario in self.scenarios)
        return 0 < late == len(self.missed)

    def write(self, file: Path) -> None:
        """Writes it as JSON, for :meth:`load`."""
        missed = self.missed
        content = {**asdict(self), "missed": missed, "is_met": not missed}
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True) + "\n")

    @staticmethod
    def load(file: Path) -> Report:
        """Reads what :meth:`write` wrote."""
        content = json.loads(file.read_text())
        scenarios = [_scenario(scenario) for scenario in content["scenarios"]]
        return Report(content["drill"], scenarios, content["failure"], content["seconds"])


def table(reports: list[Report]) -> str:
    """The closing table: of one drill, or of all."""
    header = ["drill", "scenario", "recorded", "acknowledged", "lost", "outage", "all resumed", "verified"]
    rows = [_row(report, scenario) for report in reports for scenario in report.scenarios]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip()

    lines = [line(header), "  ".join("─" * width for width in widths), *(line(row) for row in rows)]
    for report in reports:
        for scenario in report.scenarios:
            lines += [f"{report.drill}: {scenario.name}: {figure.name} {figure.text}" for figure in scenario.figures]
    problems = [f"{MISSED} {report.drill}: {what}" for report in reports for what in report.missed]
    return "\n".join([*lines, *problems])


def _row(report: Report, scenario: Scenario) -> list[str]:
    verified = {True: "yes", False: f"no {MISSED}", None: "–"}[scenario.verified]
    figures = [scenario.lost, scenario.outage, scenario.resumed]
    return [
        report.drill,
        scenario.name,
        *("–" if count is None else f"{count:,}" for count in (scenario.recorded, scenario.acknowledged)),
        *("–" if figure is None else figure.text for figure in figures),
        verified,
    ]


def _scenario(content: dict[str, Any]) -> Scenario:
    def figure(value: dict[str, Any] | None) -> Figure | None:
        return None if value is None else Figure(**value)

    named = {name: figure(content.pop(name)) for name in ("lost", "outage", "resumed")}
    figures = [Figure(**value) for value in content.pop("figures")]
    return Scenario(**content, **named, figures=figures)


def _number(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "not measured" if math.isnan(value) else f"{value}"
    shown = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.2f}"
    return f"{shown} {unit}".rstrip()
