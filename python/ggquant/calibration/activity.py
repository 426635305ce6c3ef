"""Figures about each weight's input, from an importance matrix: those of `llama-imatrix --show-statistics`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ggquant.calibration.statistics import Entry, Statistics

#: A mean square at most this large counts as no activity.
_INACTIVE = 1e-5


@dataclass(frozen=True, slots=True)
class Activity:
    """Figures of one weight's input; mean squares of its columns are what they are about.

    Attributes:
        tensor: GGUF name of the weight.
        total, smallest, largest, mean, deviation: of the mean squares.
        active: share of columns with any activity.
        columns: how many there are, those of experts without tokens left out.
        entropy: of the shares of the total, in bits.
        outliers: share of columns more than one deviation above the mean.
        similarity: cosine between the sums of this layer and those of the layer before; 0 where there is none.
    """

    tensor: str
    total: float
    smallest: float
    largest: float
    mean: float
    deviation: float
    active: float
    columns: int
    entropy: float
    outliers: float
    similarity: float

    @property
    def layer(self) -> int | None:
        """Number of the layer; None outside of layers."""
        match = re.search(r"(?:^|\.)blk\.(\d+)\.", self.tensor)
        return int(match[1]) if match else None

    @property
    def kind(self) -> str:
        """The name without layer and `.weight`."""
        parts = self.tensor.split(".")
        return parts[parts.index("weight") - 1] if "weight" in parts[1:] else self.tensor

    @property
    def normalized_entropy(self) -> float:
        """Entropy as a share of the largest possible."""
        return self.entropy / float(np.log2(self.columns)) if self.columns > 1 else 0.0


@dataclass(frozen=True, slots=True)
class LayerActivity:
    """Averages over a layer's weights, by their columns.

    Attributes:
        layer: number of the layer.
        total, outliers, similarity: averages of what `Activity` has.
    """

    layer: int
    total: float
    outliers: float
    similarity: float


def activities(statistics: Statistics) -> list[Activity]:
    """The figures of every weight that has data, by kind of weight, the largest total first."""
    found = []
    for name, entry in statistics.entries.items():
        if entry.counts.any():
            found.append(_activity(name, entry, statistics))
    return sorted(found, key=lambda activity: (activity.kind, -activity.total))


def layer_activities(found: Iterable[Activity]) -> list[LayerActivity]:
    """Averages by layer, in their order."""
    layers: dict[int, list[Activity]] = {}
    for activity in found:
        if activity.layer is not None:
            layers.setdefault(activity.layer, []).append(activity)
    result = []
    for layer, members in sorted(layers.items()):
        weights = [member.columns for member in members]
        total, outliers, similarity = (
            float(np.average([getattr(member, name) for member in members], weights=weights))
            for name in ("total", "outliers", "similarity")
        )
        result.append(LayerActivity(layer, total, outliers, similarity))
    return result


def _activity(name: str, entry: Entry, statistics: Statistics) -> Activity:
    used = entry.counts > 0
    means = (entry.rows()[used] / entry.counts[used, None]).reshape(-1)
    total, mean, deviation = float(means.sum()), float(means.mean()), float(means.std())
    shares = means[means > 0] / total if total > 0 else np.zeros(0)
    return Activity(
        tensor=name,
        total=total,
        smallest=float(means.min()),
        largest=float(means.max()),
        mean=mean,
        deviation=deviation,
        active=float(np.mean(means > _INACTIVE)),
        columns=means.size,
        entropy=float(-(shares * np.log2(shares)).sum()),
        outliers=float(np.mean(means > mean + deviation)) if deviation > 0 else 0.0,
        similarity=_similarity(name, entry, statistics),
    )


def _similarity(name: str, entry: Entry, statistics: Statistics) -> float:
    match = re.search(r"blk\.(\d+)\.", name)
    if match is None or match[1] == "0":
        return 0.0
    before = statistics.entries.get(f"{name[: match.start(1)]}{int(match[1]) - 1}{name[match.end(1) :]}")
    if before is None or before.sums.size != entry.sums.size:
        return 0.0
    lengths = float(np.linalg.norm(entry.sums) * np.linalg.norm(before.sums))
    return float(entry.sums @ before.sums) / lengths if lengths > 0 else 0.0
