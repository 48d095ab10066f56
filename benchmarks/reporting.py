"""What all benchmarks have in common: their options, medians and ranges, tables, the last line."""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and their range."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of the values, of which there is one at least."""
        return cls(statistics.median(values), min(values), max(values))

    def as_json(self) -> dict[str, float]:
        """With four digits, which is more than is known."""
        return {"median": _rounded(self.median), "min": _rounded(self.least), "max": _rounded(self.most)}


Figures = dict[str, Spread]


@dataclass(frozen=True)
class Target:
    """A figure that is to be reached.

    Attributes:
        name: what it is.
        value: what was measured.
        bound: what is asked.
        is_least: whether that is the least, and not the most.
    """

    name: str
    value: float
    bound: float
    is_least: bool

    @property
    def is_met(self) -> bool:
        """Whether it is."""
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def as_json(self) -> dict[str, Any]:
        """For the last line."""
        asked = f"{'>=' if self.is_least else '<='} {self.bound:g}"
        return {"name": self.name, "value": _rounded(self.value), "asked": asked, "met": self.is_met}


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller and fewer: whether it runs, hardly more"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


def spreads(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Figures]:
    """For each system the spread of each figure, over the rounds that have it."""
    return {
        name: {
            key: Spread.of([figures[key] for figures in runs if key in figures])
            for key in dict.fromkeys(key for figures in runs for key in figures)
        }
        for name, runs in rounds.items()
    }


def ratios(rounds: Mapping[str, Sequence[Mapping[str, float]]], yardstick: str) -> dict[str, Figures]:
    """The same, each round against the yardstick's in the same round: noise that lasts strikes both."""
    pairs = {
        name: [
            {key: value / base[key] for key, value in figures.items() if base.get(key)}
            for figures, base in zip(runs, rounds[yardstick], strict=True)
        ]
        for name, runs in rounds.items()
    }
    return spreads(pairs)


def print_table(title: str, rows: Mapping[str, Figures]) -> None:
    """A line for each figure, a column for each system: median [least to most]."""
    keys = list(dict.fromkeys(key for figures in rows.values() for key in figures))
    columns = [[name, *(_cell(figures.get(key)) for key in keys)] for name, figures in rows.items()]
    lines = zip(["", *keys], *columns, strict=True)
    widths = [max(map(len, column)) for column in [keys, *columns]]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.least == spread.most:
        return _number(spread.median)
    return f"{_number(spread.median)} [{_number(spread.least)}-{_number(spread.most)}]"


def _number(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def as_json(rows: Mapping[str, Figures]) -> dict[str, dict[str, dict[str, float]]]:
    """Spreads for the last line."""
    return {
        name: {key: spread.as_json() for key, spread in figures.items()} for name, figures in rows.items()
    }


def print_end(result: dict[str, Any], targets: Sequence[Target], *, in_json: bool) -> None:
    """The targets, and the last line when it is asked for."""
    if targets:
        print("\ntargets")
    for target in targets:
        said = target.as_json()
        print(
            f"  {'met   ' if target.is_met else 'MISSED'} {said['value']:>9} {said['asked']:>8}  {target.name}"
        )
    if in_json:
        print(json.dumps({**result, "targets": [target.as_json() for target in targets]}))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
