"""Divergence against size: a picture of what quality.py measured. Needs matplotlib.

python benches/python/plot_quality.py RESULTS.json [RESULTS.json ...] OUT.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

#: Label, colour and marker of each method; others are left out of the picture.
METHODS = {
    "rounded": ("rounded with an importance matrix", "0.45", "o"),
    "awq": ("awq", "tab:purple", "v"),
    "normal": ("gptq, normal", "tab:blue", "s"),
    "awq+normal": ("awq+gptq, normal", "tab:green", "^"),
    "best": ("gptq, best", "tab:red", "D"),
}


def main() -> None:
    *sources, target = sys.argv[1:]
    results: list[dict[str, Any]] = [one for path in sources for one in json.loads(Path(path).read_text("utf-8"))]
    texts = list(results[0]["kld"])
    figure, panels = pyplot.subplots(1, len(texts), figsize=(6.5 * len(texts), 5), squeeze=False, sharey=True)
    for panel, text in zip(panels[0], texts, strict=True):
        for method, (label, colour, marker) in METHODS.items():
            points = sorted({one["variant"]: (one["bpw"], one["kld"][text]) for one in results
                             if one["method"] == method}.items(), key=lambda point: point[1])  # fmt: skip
            if not points:
                continue
            sizes, divergences = zip(*(point for _, point in points), strict=True)
            # A line between a few points would say something about what lies between them.
            line = 1 if len(points) > 4 else 0
            panel.plot(sizes, divergences, color=colour, marker=marker, ms=4, lw=line, label=label)
            if method == "rounded":
                for variant, point in points:
                    panel.annotate(variant, point, fontsize=6.5, xytext=(4, 3), textcoords="offset points")
        panel.set(title=text.removesuffix(".txt"), xlabel="bits per weight", yscale="log")
        panel.grid(alpha=0.3, which="both", lw=0.5)
    panels[0][0].set_ylabel("mean KL divergence from the original")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
