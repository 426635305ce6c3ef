"""How close quantized models stay to the original: KL divergence by method and variant, against weighted rounding.

    python benches/python/quality.py MODEL --calibration TEXT --text TEXT [--text TEXT] [--variants Q4_K_M ...]
        [--methods normal best ...] [--chunks N] [--scored N] [--json OUT] [--keep FOLDER]

The baseline is what llama-quantize makes with the importance matrix of the same text: `ggquant quantize --imatrix`
writes the same bytes. A method is an effort of GPTQ (fast, normal, best), `awq`, or both (`awq+normal`), perhaps with
options of `LayerwiseOptions` after it, such as `best,damp=0.1,rounded=["output.weight"]`. With `--scored` a text's
chunks are thinned out evenly to so many. `plot_quality.py` draws the results.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

import ggquant as gg
from ggquant import _native
from ggquant.evaluation.states import last_states, predictions, token_scores
from ggquant.evaluation.windows import text_chunks
from ggquant.layerwise.convert import quantize_by_gptq
from ggquant.layerwise.options import LayerwiseOptions, Method
from ggquant.methods.solver import Effort
from ggquant.runtime import open_model

VARIANTS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K",
            "IQ2_XS", "IQ2_M", "IQ3_XXS", "IQ3_S", "IQ4_XS")  # fmt: skip


class Judge:
    """The original's predictions on some texts, held in memory."""

    def __init__(self, model: Path, texts: list[Path], scored: int | None) -> None:
        original = open_model(model)
        self._chunks: list[tuple[str, Any, Any, list[Any]]] = []
        for text in texts:
            cuts = text_chunks(original, text, 512, None)
            count = len(cuts.tokens)
            kept = np.unique(np.linspace(0, count - 1, min(scored or count, count)).astype(int))
            tokens, inputs = np.asarray(cuts.tokens)[kept], np.asarray(cuts.inputs)[kept]
            states = last_states(original, inputs, 1 << 40, lambda _work, _what: None)
            packed = [_native.pack_logits(predictions(original, h), original.n_vocab, None) for h in states]
            self._chunks.append((text.name, tokens, inputs, packed))

    def divergence(self, model: Path) -> dict[str, float]:
        """Mean KL divergence of the original from a model, by text."""
        judged = open_model(model)
        result = {}
        for name, tokens, inputs, packed in self._chunks:
            states = last_states(judged, inputs, 1 << 40, lambda _work, _what: None)
            rows = [
                token_scores(predictions(judged, h), ids, p, None)
                for h, ids, p in zip(states, tokens, packed, strict=True)
            ]
            result[name] = float(np.concatenate(rows)[:, 2].mean())
        return result


def options_of(text: str) -> LayerwiseOptions:
    """`best,damp=0.1` to options."""
    name, *rest = re.split(r",(?=[a-z_]+=)", text)
    given = {key: json.loads(value) for key, value in (item.split("=") for item in rest)}
    effort = "normal" if name == "awq" else name.removeprefix("awq+")
    method = "awq" if name == "awq" else "awq+gptq" if name.startswith("awq+") else "gptq"
    made = LayerwiseOptions.of(cast("Effort", effort), cast("Method", method))
    return replace(made, **{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--imatrix", type=Path, help="made from the calibration text; collected if not given")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--methods", nargs="*", default=["normal", "best"])
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--scored", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the files that are made")
    given = parser.parse_args()
    judge = Judge(given.model, given.text, given.scored)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        matrix = given.imatrix
        if matrix is None:
            matrix = folder / "imatrix.gguf"
            gg.collect_imatrix(given.model, [given.calibration], matrix)
        for variant in given.variants:
            base: dict[str, float] = {}
            for method in ["rounded", *given.methods]:
                out = folder / f"{variant}-{method}.gguf"
                if method == "rounded":
                    made = gg.convert(given.model, out, variant, imatrix=matrix, overwrite=True)
                else:
                    how = options_of(method)
                    made = quantize_by_gptq(given.model, out, variant, method=how, calibration=[given.calibration],
                                            chunks=given.chunks, overwrite=True).conversion  # fmt: skip
                kld = judge.divergence(out)
                base = base or kld
                results.append({"variant": variant, "method": method, "bpw": made.bits_per_weight, "kld": kld})
                ratios = "  ".join(f"{name} {kld[name]:.5f} x{kld[name] / base[name]:.3f}" for name in kld)
                print(f"{variant:8} {method:24} {made.bits_per_weight:.3f} bpw  {ratios}", flush=True)
                if given.json is not None:
                    given.json.write_text(json.dumps(results, indent=1) + "\n")
                if given.keep is None:
                    out.unlink()


if __name__ == "__main__":
    main()
