"""From scores of tokens to the numbers that llama-perplexity prints, with their error bars."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Scores: TypeAlias = npt.NDArray[np.float64]

#: Fewer scores have no error bar.
_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model makes of a text. Probabilities and shares are between 0 and 1, divergences in nats.

    `*_stderr` are standard errors. What needs a reference is None without one.

    Attributes:
        ppl: perplexity: e to the mean negative log-likelihood of the scored tokens.
        tokens: number of scored tokens.
        seconds: duration.
        chunks, n_ctx: chunks of text and tokens in each; those in the second half, but for the last, are scored.
        ppl_base: the reference's perplexity.
        ln_ppl_ratio: ln(ppl / ppl_base).
        correlation: of the two models' negative log-likelihoods, token by token.
        kld_mean, kld_median, ...: Kullback-Leibler divergence of the model's predictions from the reference's: mean,
            percentiles (`kld_p999` is the 99.9th), extremes.
        same_top: share of tokens for which both find the same token the most likely.
        dp_mean, dp_rms: difference of the probabilities that the model and the reference give to the next token.
    """

    ppl: float
    ppl_stderr: float
    tokens: int
    seconds: float
    chunks: int
    n_ctx: int
    ppl_base: float | None = None
    ppl_base_stderr: float | None = None
    ln_ppl_ratio: float | None = None
    ln_ppl_ratio_stderr: float | None = None
    correlation: float | None = None
    kld_mean: float | None = None
    kld_stderr: float | None = None
    kld_min: float | None = None
    kld_median: float | None = None
    kld_p90: float | None = None
    kld_p95: float | None = None
    kld_p99: float | None = None
    kld_p999: float | None = None
    kld_max: float | None = None
    same_top: float | None = None
    same_top_stderr: float | None = None
    dp_mean: float | None = None
    dp_mean_stderr: float | None = None
    dp_rms: float | None = None
    dp_rms_stderr: float | None = None


def summarize_alone(nll: Scores, *, seconds: float, chunks: int, n_ctx: int) -> Evaluation:
    """Perplexity alone.

    Args:
        nll: negative log-likelihood of each scored token.
        seconds, chunks, n_ctx: see `Evaluation`.
    """
    mean, error = _mean(nll)
    return Evaluation(exp(mean), exp(mean) * error, nll.size, seconds, chunks, n_ctx)


def summarize(scores: Scores, *, seconds: float, chunks: int, n_ctx: int) -> Evaluation:
    """Perplexity, and how far the model is from its reference.

    Args:
        scores: [tokens, 5]: nll, the reference's nll, divergence, difference of probabilities, 1 for the same top.
        seconds, chunks, n_ctx: see `Evaluation`.
    """
    nll, base, kld, dp, same = scores.T
    count = len(nll)
    (mean, error), (base_mean, base_error) = _mean(nll), _mean(base)
    covariance = (float(np.mean(nll * base)) - mean * base_mean) / (count - 1) if count >= _ENOUGH else 0.0
    kld_mean, kld_error = _mean(kld)
    dp_mean, dp_error = _mean(dp)
    square, square_error = _mean(dp * dp)
    rms = sqrt(square)
    share = float(np.mean(same))
    # Sorted and cut in float32, as there.
    ordered = np.sort(kld.astype(np.float32))
    errors = error * base_error
    return Evaluation(
        ppl=exp(mean),
        ppl_stderr=exp(mean) * error,
        tokens=count,
        seconds=seconds,
        chunks=chunks,
        n_ctx=n_ctx,
        ppl_base=exp(base_mean),
        ppl_base_stderr=exp(base_mean) * base_error,
        ln_ppl_ratio=mean - base_mean,
        ln_ppl_ratio_stderr=sqrt(max(error**2 + base_error**2 - 2 * covariance, 0.0)),
        correlation=covariance / errors if errors > 0 else None,
        kld_mean=kld_mean,
        kld_stderr=kld_error,
        kld_min=float(ordered[0]),
        kld_median=_percentile(ordered, 0.5),
        kld_p90=_percentile(ordered, 0.9),
        kld_p95=_percentile(ordered, 0.95),
        kld_p99=_percentile(ordered, 0.99),
        kld_p999=_percentile(ordered, 0.999),
        kld_max=float(ordered[-1]),
        same_top=share,
        same_top_stderr=sqrt(share * (1 - share) / max(count - 1, 1)),
        dp_mean=dp_mean,
        dp_mean_stderr=dp_error,
        dp_rms=rms,
        dp_rms_stderr=0.5 / rms * square_error if rms > 0 else 0.0,
    )


def _mean(values: Scores) -> tuple[float, float]:
    """The mean and its standard error."""
    mean = float(np.mean(values))
    variance = float(np.mean(values * values)) - mean * mean
    error = sqrt(variance / (values.size - 1)) if variance > 0 and values.size > _ENOUGH else 0.0
    return mean, error


def _percentile(ordered: npt.NDArray[np.float32], fraction: float) -> float:
    """Between the two values nearest to that share of the way."""
    at = fraction * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return float((1 - (at - low)) * ordered[low] + (at - low) * ordered[high])
