"""The distillation loss against its definition, and int8 activations against the native encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ggquant as gg
from conftest import make, tokens
from ggquant import qat


def test_the_default_is_the_mean_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 7, 50, generator=generator, dtype=torch.float64) * 3
    p, q = teacher.softmax(-1), student.softmax(-1)
    wanted = (p * (p / q).log()).sum(-1).mean()
    # float32 inside: sums of 50 terms near 1, so within 50 * 2^-24 of relative error, with room for exp and log
    torch.testing.assert_close(qat.distillation_loss(student, teacher).double(), wanted, rtol=1e-5, atol=0)
    assert qat.distillation_loss(student, student) == 0
    mask = torch.tensor([[1, 1, 0], [0, 1, 0]], dtype=torch.bool).repeat_interleave(1, 0)[:, [0, 1, 2]]
    mask = mask.repeat(2, 3)[:3, :7]
    some = (p * (p / q).log()).sum(-1)[mask].mean()
    torch.testing.assert_close(qat.distillation_loss(student, teacher, mask=mask).double(), some, rtol=1e-5, atol=0)


def test_temperature_and_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, 20, generator=generator)
    labels = torch.randint(0, 20, (4, 5), generator=generator)
    labels[1, 2] = -100
    kept = labels != -100
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    divergence = 4 * (p * (p / q).log()).sum(-1)[kept].mean()
    entropy = torch.nn.functional.cross_entropy(student[kept], labels[kept])
    got = qat.distillation_loss(student, teacher, labels=labels, temperature=2.0, alpha=0.25)
    torch.testing.assert_close(got, 0.25 * divergence + 0.75 * entropy)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = (torch.randn(2, 10, requires_grad=True) for _ in range(2))
    qat.distillation_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_wrong_arguments_are_refused() -> None:
    logits = torch.zeros(2, 3, 10)
    with pytest.raises(gg.ShapeError):
        qat.distillation_loss(logits, logits[:1])
    with pytest.raises(gg.UsageError, match="labels"):
        qat.distillation_loss(logits, logits, alpha=0.5)
    with pytest.raises(gg.UsageError, match="temperature"):
        qat.distillation_loss(logits, logits, temperature=0.0)
    with pytest.raises(gg.UsageError, match="no token"):
        qat.distillation_loss(logits, logits, mask=torch.zeros(2, 3, dtype=torch.bool))


def _activations() -> torch.Tensor:
    x = torch.randn(5, 512, generator=torch.Generator().manual_seed(3)) * torch.logspace(-3, 3, 5)[:, None]
    x[2, :256] = 0
    return x


def test_blocks_of_32_round_as_the_native_encoder() -> None:
    x = _activations()
    assert np.array_equal(qat.round_activations(x, 32).numpy(), gg.quantize(x, "Q8_0").dequantize())
    with pytest.raises(gg.ShapeError):
        qat.round_activations(x[:, :40], 32)


def test_blocks_of_256_round_as_the_format_is_defined() -> None:
    x = _activations().numpy()
    wanted = np.zeros_like(x)
    for row, out in zip(x.reshape(-1, 256), wanted.reshape(-1, 256), strict=True):
        largest = row[np.argmax(np.abs(row))]
        if largest:
            inverse = np.float32(-127) / largest
            out[:] = np.minimum(np.rint(inverse * row), 127) * (np.float32(1) / inverse)
    assert np.array_equal(qat.round_activations(torch.from_numpy(x), 256).numpy(), wanted)


def test_rounded_activations_reach_the_layers() -> None:
    model = make("llama")
    ids = tokens(1, 8)
    qat.prepare(model, "Q4_K_S")
    plain = model(ids).logits
    qat.convert(model)
    qat.prepare(model, "Q4_K_S", activations="int8")
    rounded = model(ids).logits
    assert not torch.equal(plain, rounded)
    assert (plain - rounded).abs().mean() < 0.1 * plain.abs().mean()
    rounded.sum().backward()
    qat.convert(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    experts = make("mixtral")
    with pytest.raises(gg.UnsupportedError, match="expert stacks"):
        qat.prepare(experts, "Q4_K_S", activations="int8")
