"""Losses for training under quantization."""

from __future__ import annotations

import torch
from torch.nn import functional

from ggquant.errors import ShapeError, UsageError


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    labels: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
    alpha: float = 1.0,
) -> torch.Tensor:
    """How far the quantized model's next-token distributions are from the original's (Hinton et al., 2015).

    `alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * cross entropy with labels`, a mean
    over tokens. With the default arguments it is the mean KL divergence that llama-perplexity reports.

    Args:
        student: logits of the model under training, `[..., n_vocab]`.
        teacher: logits of the original, of the same shape; no gradient flows into them.
        labels: the tokens that follow, `[...]`, already shifted; -100 is left out. Needed where `alpha` is below 1.
        mask: boolean `[...]`, false for positions to leave out (padding).
        temperature: T, above zero.
        alpha: share of the divergence, 0 to 1.

    Returns:
        A scalar, in float32.

    Raises:
        ShapeError: shapes that do not belong together.
        UsageError: an argument out of range, labels missing, or nothing left to average over.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} differ in shape"
        )
    if not temperature > 0 or not 0 <= alpha <= 1:
        raise UsageError(f"temperature {temperature} must be above 0, and alpha {alpha} between 0 and 1")
    if alpha < 1 and labels is None:
        raise UsageError("alpha below 1 mixes in the cross entropy, which needs labels")
    n_vocab = student.shape[-1]
    s = student.reshape(-1, n_vocab).float()
    t = teacher.detach().reshape(-1, n_vocab).float()
    kept = torch.ones(s.shape[0], dtype=torch.bool, device=s.device)
    if mask is not None:
        if mask.shape != student.shape[:-1]:
            raise ShapeError(f"mask {tuple(mask.shape)} is not of shape {tuple(student.shape[:-1])}")
        kept &= mask.reshape(-1).bool()
    if labels is not None:
        if labels.shape != student.shape[:-1]:
            raise ShapeError(f"labels {tuple(labels.shape)} are not of shape {tuple(student.shape[:-1])}")
        kept &= labels.reshape(-1) != -100
    if not bool(kept.any()):
        raise UsageError("no token is left to average the loss over")
    if not bool(kept.all()):
        s, t = s[kept], t[kept]
    log_s = functional.log_softmax(s / temperature, dim=-1)
    log_t = functional.log_softmax(t / temperature, dim=-1)
    # Fewer passes over the logits than functional.kl_div takes, of which they would be a tenth of a step.
    loss = torch.mul(log_t.exp(), log_t - log_s).sum(dim=-1).mean() * (alpha * temperature**2)
    if labels is not None and alpha < 1:
        loss = loss + (1 - alpha) * functional.cross_entropy(s, labels.reshape(-1)[kept])
    return loss
