"""What is written is what the loss saw, and for an untrained model what a conversion of its checkpoint writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import ggquant as gg
from conftest import CONFIGS, make, save, tokens
from ggquant import qat
from ggquant.qat.prepare import fakes, originals

STORED = [f.name for f in gg.formats() if f.storage and f.name not in ("F32", "F16", "BF16")]


def evaluate(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits


def train(model: torch.nn.Module, steps: int, lr: float = 1e-3) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(steps):
        ids = tokens(2, 16, seed=step)
        logits = model(ids).logits
        loss = functional.cross_entropy(logits[:, :-1].reshape(-1, 4096), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("family", CONFIGS)
def test_an_untrained_model_gives_the_file_of_its_checkpoint(family: str, tmp_path: Path) -> None:
    model = make(family)
    folder = save(model, tmp_path / "model")
    qat.prepare(model, "Q4_K_M")
    evaluate(model, tokens(1, 8))
    qat.export_gguf(model, folder, tmp_path / "qat.gguf", pre="gpt-2")
    gg.convert(folder, tmp_path / "ptq.gguf", "Q4_K_M", pre="gpt-2")
    assert (tmp_path / "qat.gguf").read_bytes() == (tmp_path / "ptq.gguf").read_bytes()


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral", "gpt-oss"])
def test_the_file_decodes_to_the_weights_of_the_last_evaluation(family: str, tmp_path: Path, tokenizer: Path) -> None:
    model = make(family)
    qat.prepare(model, "Q3_K_M", scale_refresh=2)
    train(model, 3)
    ids = tokens(2, 16)
    seen = evaluate(model, ids)
    file = gg.open(qat.export_gguf(model, tokenizer, tmp_path / "out.gguf", pre="gpt-2"))
    layout = qat.describe(model)
    assert [d.name for d in layout] == list(file.tensors)
    assert {d.name: d.format for d in layout} == {t.name: t.format for t in file.tensors.values()}
    # The decoded weights, put in the place of the trained ones, must give the very same logits.
    rows = {name: torch.from_numpy(t.dequantize().reshape(-1).copy()) for name, t in file.tensors.items()}
    decoded: dict[str, torch.Tensor] = {}
    for name, fake in fakes(model).items():
        for piece in fake.pieces:
            base = _rows_before(model, piece.tensor, piece.order) * piece.columns
            values = rows[piece.tensor][base : base + piece.rows * piece.columns]
            target = decoded.setdefault(name, _original(model, name).detach().clone())
            piece.scatter(values.reshape(piece.rows, piece.columns), target)
    qat.convert(model)
    model.load_state_dict(decoded, strict=False)
    torch.testing.assert_close(evaluate(model, ids), seen, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "qwen3moe"])
def test_the_file_has_the_logits_of_the_last_evaluation(family: str, tmp_path: Path, tokenizer: Path) -> None:
    """Weights are the same bit for bit; what is left is the order of sums in two float32 forward passes."""
    model = make(family)
    qat.prepare(model, "Q2_K", scale_refresh=2)
    train(model, 3, lr=1e-2)  # far enough for logits that differ between tokens
    ids = tokens(2, 24)
    seen = evaluate(model, ids).numpy()
    path = qat.export_gguf(model, tokenizer, tmp_path / "out.gguf", pre="gpt-2")
    runnable = gg.open_model(path)
    found = runnable.logits(runnable.forward(ids.numpy())).reshape(seen.shape)
    assert np.abs(found - seen).max() <= 1e-4 * np.abs(seen).max()


def _original(model: torch.nn.Module, name: str) -> torch.nn.Parameter:
    return originals(model)[name]


def _rows_before(model: torch.nn.Module, tensor: str, order: int) -> int:
    pieces = [piece for fake in fakes(model).values() for piece in fake.pieces]
    return sum(piece.rows for piece in pieces if piece.tensor == tensor and piece.order < order)


@pytest.mark.parametrize("format", STORED)
def test_every_format_is_trained_and_exported_exactly(format: str, tmp_path: Path, tokenizer: Path) -> None:
    model = make("llama")
    importance = {
        f"blk.{layer}.{part}.weight": np.linspace(0.5, 2.0, 512 if part == "ffn_down" else 256, dtype=np.float32)
        for layer in range(2)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    qat.prepare(model, "Q8_0", imatrix=importance, scheme={r"blk\..*weight": format}, scale_refresh=3)
    before = evaluate(model, tokens(1, 8))
    train(model, 4)
    after = evaluate(model, tokens(1, 8))
    assert not torch.equal(before, after)
    file = gg.open(qat.export_gguf(model, tokenizer, tmp_path / "out.gguf", pre="gpt-2"))
    assert file.tensors["blk.0.ffn_up.weight"].format == format
    written = torch.from_numpy(file.tensors["blk.1.ffn_up.weight"].dequantize())
    torch.testing.assert_close(model.model.layers[1].mlp.up_proj.weight.detach(), written, rtol=0, atol=0)
    assert not gg.verify(tmp_path / "out.gguf")


def test_weights_that_changed_since_the_evaluation_are_not_written(
    tiny: torch.nn.Module, tmp_path: Path, tokenizer: Path
) -> None:
    qat.prepare(tiny, "Q4_0")
    target = tmp_path / "out.gguf"
    with pytest.raises(gg.UsageError, match="no evaluation forward"):
        qat.export_gguf(tiny, tokenizer, target, pre="gpt-2")
    evaluate(tiny, tokens(1, 8))
    # Behind autograd's back, as some optimizers write.
    tiny.model.layers[0].mlp.up_proj.parametrizations.weight.original.data[3, 5] += 1
    with pytest.raises(gg.UsageError, match=r"up_proj\.weight: the weight has changed"):
        qat.export_gguf(tiny, tokenizer, target, pre="gpt-2")
    evaluate(tiny, tokens(1, 8))
    tiny.train()
    tiny(tokens(1, 8))
    with pytest.raises(gg.UsageError, match="no evaluation forward"):
        qat.export_gguf(tiny, tokenizer, target, pre="gpt-2")
    assert not target.exists()
    evaluate(tiny, tokens(1, 8))
    qat.export_gguf(tiny, tokenizer, target, pre="gpt-2")
    with pytest.raises(gg.FileError, match="exists"):
        qat.export_gguf(tiny, tokenizer, target, pre="gpt-2")
    with pytest.raises(gg.FileError, match="no such folder"):
        qat.export_gguf(tiny, tmp_path / "nowhere", target, pre="gpt-2")


def test_frozen_scales_are_what_is_written(tiny: torch.nn.Module, tmp_path: Path, tokenizer: Path) -> None:
    qat.prepare(tiny, "Q4_K_S")
    tiny.train()
    tiny(tokens(1, 8))
    first = gg.quantize(tiny.model.layers[0].mlp.up_proj.parametrizations.weight.original, "Q4_K").data
    qat.freeze_scales(tiny)
    train(tiny, 3, lr=3e-3)
    evaluate(tiny, tokens(1, 8))
    file = gg.open(qat.export_gguf(tiny, tokenizer, tmp_path / "out.gguf", pre="gpt-2"))
    written = file.tensors["blk.0.ffn_up.weight"].quantized().data
    assert np.array_equal(written[:, :16], first[:, :16])  # d, dmin and the packed scales of the first super-block
    assert not np.array_equal(written[:, 16:], first[:, 16:])


@pytest.mark.parametrize(
    ("family", "dtype", "margin"),
    [
        ("llama-tied", torch.float32, 0.02),
        ("llama-tied", torch.float32, 1),
        ("llama", torch.bfloat16, 0.02),
        ("gpt2", torch.float32, 0.02),
        ("mixtral", torch.float32, 0.02),
        ("gpt-oss", torch.float32, 0.02),
    ],
)
def test_a_training_starts_at_the_codes_of_a_file(
    family: str, dtype: torch.dtype, margin: float, tmp_path: Path
) -> None:
    model = make(family).to(dtype)
    folder = save(model, tmp_path / "model")
    # Other codes than the model's own search finds: those of other importances.
    other = {t.name: np.linspace(4, 0.1, t.shape[-1]) for t in gg.plan(folder, "Q4_K_S", pre="gpt-2").tensors}
    stacks = {t.name: t.shape[-3] for t in gg.plan(folder, "Q4_K_S", pre="gpt-2").tensors if len(t.shape) == 3}
    other = {name: np.tile(row, stacks.get(name, 1)) for name, row in other.items()}
    gg.convert(folder, tmp_path / "solved.gguf", "Q4_K_S", imatrix=other, pre="gpt-2")
    solved = gg.open(tmp_path / "solved.gguf")
    with pytest.raises(gg.UsageError, match="give the file's own variant"):
        qat.ptq_then_qat(make(family), tmp_path / "solved.gguf", "Q8_0")
    with pytest.raises(gg.UsageError, match="margin 0"):
        qat.ptq_then_qat(make(family), tmp_path / "solved.gguf", "Q4_K_S", margin=0)
    qat.ptq_then_qat(model, tmp_path / "solved.gguf", "Q4_K_S", margin=margin)
    evaluate(model, tokens(1, 8))
    file = gg.open(qat.export_gguf(model, folder, tmp_path / "first.gguf", pre="gpt-2"))
    for name, tensor in solved.tensors.items():
        if tensor.format not in ("F32", "F16", "BF16"):
            assert np.array_equal(tensor.dequantize(), file.tensors[name].dequantize()), name
    train(model, 3, lr=1e-2)  # a code apart, from values in the middle of theirs
    evaluate(model, tokens(1, 8))
    moved = gg.open(qat.export_gguf(model, folder, tmp_path / "second.gguf", pre="gpt-2"))
    name = next(name for name, t in moved.tensors.items() if t.format == "Q4_K")
    was, now = solved.tensors[name].quantized().data, moved.tensors[name].quantized().data
    assert np.array_equal(was[..., :16], now[..., :16])  # the scales of the first super-block
    assert not np.array_equal(was, now)
