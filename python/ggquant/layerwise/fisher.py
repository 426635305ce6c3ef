"""How much the model's predictions depend on the output of each weight: Fisher information from sampled labels.

For labels y drawn from the model's own predictions, gradients g of `-ln p(y)` at the output of a weight have the second
moment `G = E[g g^T]`, and an error E of the weight moves the predictions by about `tr(G E H E^T) / 2` in KL divergence,
with H the second moment of its input (Kronecker factors of the Fisher information: Martens and Grosse 2015, arXiv
1503.05671; for rounding: Tseng et al. 2025, arXiv 2505.22988).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.errors import NonFiniteError
from ggquant.linalg import add_gram, mirror
from ggquant.runtime.backward import open_gradients
from ggquant.runtime.block import GROUP_TOKENS
from ggquant.runtime.model import RunnableModel
from ggquant.runtime.ops import Floats, softmax

#: Rows of a weight whose gradients are held against each other. Weights with more are cut into stretches.
ROW_LIMIT = 1024


@dataclass
class Fisher:
    """Second moments of the gradients at a weight's output.

    Attributes:
        parts: one matrix [n, n] for each stretch of `ROW_LIMIT` rows, means over tokens; of the embedding a single one.
        weights: the mean square of each token's gradient relative to that of all, [n_chunks, n_ctx].
    """

    parts: list[npt.NDArray[np.float64]]
    weights: Floats


def collect_fisher(
    model: RunnableModel,
    tokens: npt.NDArray[np.int64],
    names: set[str],
    seed: int,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Fisher]:
    """Runs the model forward and back, and sums up the gradients at the outputs of some weights.

    Args:
        model: the model as it was.
        tokens: calibration tokens [n_chunks, n_ctx].
        names: GGUF names. The output matrix gets weights of tokens alone: its rows are the vocabulary. So does an
            embedding that is the output matrix as well.
        seed: of the labels; each chunk has its own generator, so that they do not depend on the grouping of chunks.
        progress: told of chunks done, and how many there are.

    Raises:
        UnsupportedError: a part of the model has no way back.
        NonFiniteError: gradients overflow.
    """
    gradients = open_gradients(model)
    found: dict[str, Fisher] = {}
    n_ctx = tokens.shape[1]
    group = max(1, GROUP_TOKENS // n_ctx)
    squares: dict[str, list[Floats]] = {}

    def hook(name: str, x: Floats, dy: Floats) -> None:
        embeds = name == "token_embd.weight" and x.shape[1] == 0
        if name not in names or (embeds and name == model.output_name):
            return
        squares.setdefault(name, []).append(np.square(dy).mean(axis=1))
        if name == model.output_name:
            return
        step = dy.shape[1] if embeds else ROW_LIMIT
        stretches = [dy[:, start : start + step] for start in range(0, dy.shape[1], step)]
        own = found.setdefault(name, Fisher([np.zeros((s.shape[1],) * 2) for s in stretches], np.empty(0, np.float32)))
        for total, part in zip(own.parts, stretches, strict=True):
            add_gram(total, part, threads=model.threads)

    for start in range(0, len(tokens), group):

        def slope(logits: Floats, number: int, first: int = start) -> Floats:
            return _sampled(logits, np.random.default_rng([seed, first + number]))

        gradients.run(tokens[start : start + group], slope, hook)
        if progress is not None:
            progress(min(start + group, len(tokens)), len(tokens))
    for name, seen in squares.items():
        own = found.setdefault(name, Fisher([], np.empty(0, np.float32)))
        sizes = np.concatenate(seen).reshape(tokens.shape)
        if not np.isfinite(sizes).all():
            raise NonFiniteError(f"tensor '{name}': its gradients are not finite on the calibration text", tensor=name)
        own.weights = sizes / max(float(sizes.mean()), 1e-30)
        for part in own.parts:
            mirror(part)
            part /= tokens.size
    return found


def _sampled(logits: Floats, random: np.random.Generator) -> Floats:
    """The gradient of `-ln p(y)` at the logits, with a label y drawn for each row."""
    p = softmax(logits)
    edges = np.cumsum(p, axis=1, dtype=np.float64)
    drawn = random.random(len(p)) * edges[:, -1]
    labels = np.minimum((edges < drawn[:, None]).sum(axis=1), p.shape[1] - 1)
    p[np.arange(len(p)), labels] -= 1
    return p
