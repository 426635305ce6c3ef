"""Training under quantization: gradients, warm-up, kept scales, and the surroundings that people train in."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

import ggquant as gg
from conftest import CONFIGS, make, resumes_bit_for_bit, tokens
from ggquant import qat
from ggquant.qat import fake, kept

SCALAR = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0",
]  # fmt: skip


def loss_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(ids).logits
    return functional.cross_entropy(logits[:, :-1].reshape(-1, 4096).float(), ids[:, 1:].reshape(-1))


def up_proj(model: torch.nn.Module) -> torch.nn.Module:
    module: torch.nn.Module = model.model.layers[0].mlp.up_proj
    return module


def original(module: torch.nn.Module) -> torch.Tensor:
    weight: torch.Tensor = module.parametrizations.weight.original
    return weight


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parameters that were searched for scales, in order."""
    seen: list[str] = []
    encode = fake._encode

    def count(piece: object, rows: torch.Tensor, name: str, threads: int | None) -> object:
        seen.append(name)
        return encode(piece, rows, name, threads)  # type: ignore[arg-type]

    monkeypatch.setattr(fake, "_encode", count)
    return seen


# --- the estimator ------------------------------------------------------------------------------------------------


def test_forward_sees_the_codes_and_backward_the_weights(tiny: torch.nn.Module) -> None:
    qat.prepare(tiny, "Q4_K_S")
    module = up_proj(tiny)
    weight = original(module)
    seen = module.weight
    assert torch.equal(seen.detach(), torch.from_numpy(gg.quantize(weight, "Q4_K").dequantize()))
    direction = torch.randn_like(seen)
    (seen * direction).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, direction)


@pytest.mark.parametrize("format", ["Q4_0", "Q2_K", "Q4_K", "IQ4_NL", "Q8_0"])
def test_the_clamp_mask_is_the_slope_of_the_surrogate(format: str, tiny: torch.nn.Module) -> None:
    """With rounding taken out, a weight's value is itself within half a step of the range, and constant beyond."""
    qat.prepare(tiny, "Q8_0", scheme={"ffn_up": format}, clamp_gradient=True, scale_refresh=10)
    module = up_proj(tiny)
    weight = original(module)
    tiny.train()
    _ = module.weight  # a search, whose scales stay for the next
    with torch.no_grad():
        weight[::3] *= 1.6
    module.weight.sum().backward()
    blocks = module.parametrizations.weight[0]._kept[0]
    grid = kept.grid_of(format, blocks, weight.shape[1], weight.device)
    rows = weight.detach().double()
    scale = grid.scale.double()
    low, high = grid.table[0].double(), grid.table[-1].double()
    half_low, half_high = (grid.table[1] - grid.table[0]) / 2, (grid.table[-1] - grid.table[-2]) / 2

    def surrogate(w: torch.Tensor) -> torch.Tensor:
        split = w.reshape(w.shape[0], -1, grid.sub_len)
        x = (split - (0 if grid.offset is None else grid.offset.double())) / scale
        return (x.clamp(low - half_low, high + half_high) * scale).reshape(w.shape)

    step = 1e-9  # so small beside the weights that next to none crosses an end of its range
    slope = (surrogate(rows + step) - surrogate(rows - step)) / (2 * step)
    assert weight.grad is not None
    agree = ((slope - weight.grad.double()).abs() < 1e-3).double().mean()
    assert agree > 0.9999
    assert 0 < (weight.grad == 0).sum() < weight.numel() / 2


@pytest.mark.parametrize("format", SCALAR)
def test_torch_codes_decode_natively_to_the_same_values(format: str) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(24, 512, generator=generator) * torch.logspace(-4, 2, 24)[:, None]
    rows[3, :256] = 0
    blocks = gg.quantize(rows, format).data.reshape(-1).copy()
    grid = kept.grid_of(format, blocks, 512, rows.device)
    moved = rows * (1 + 0.2 * torch.randn(rows.shape, generator=generator))
    codes = grid.codes(moved)
    native = gg.dequantize(kept._native.with_codes(format, blocks, codes.numpy().reshape(-1)), format, (24, 512))
    assert np.array_equal(grid.values(codes).numpy().view(np.uint32) << 1, native.view(np.uint32) << 1)
    # No other code of the table is nearer, up to the rounding of the comparison itself.
    offset = 0 if grid.offset is None else grid.offset[..., None].double()
    every = grid.scale[..., None].double() * grid.table.double() + offset
    split = moved.reshape(24, -1, grid.sub_len, 1).double()
    best = (every - split).abs().amin(dim=-1).reshape(24, 512)
    error = (grid.values(codes).double() - moved.double()).abs()
    assert bool((error <= best * (1 + 1e-5) + 1e-30).all())


def test_codes_follow_kept_scales_between_searches(tiny: torch.nn.Module, searches: list[str]) -> None:
    qat.prepare(tiny, "Q4_K_S", scale_refresh=3)
    optimizer = torch.optim.SGD(tiny.parameters(), lr=1e-2)
    tiny.train()
    name = "model.layers.0.mlp.up_proj.weight"
    history = []
    for step in range(7):
        loss_of(tiny, tokens(1, 8, seed=step)).backward()
        history.append(searches.count(name))
        optimizer.step()
        optimizer.zero_grad()
    assert history == [1, 1, 1, 2, 2, 2, 3]
    tiny.eval()
    tiny(tokens(1, 8))
    assert searches.count(name) == 4  # an evaluation takes the best scales


def test_one_encoding_an_update_however_often_weights_are_read(tiny: torch.nn.Module, searches: list[str]) -> None:
    qat.prepare(tiny, "Q4_0")
    optimizer = torch.optim.SGD(tiny.parameters(), lr=1e-2)
    whole = copy.deepcopy(tiny)
    for part in tokens(4, 8).chunk(4):  # accumulated
        (loss_of(tiny, part) / 4).backward()
    assert len(searches) == len(set(searches))
    loss_of(whole, tokens(4, 8)).backward()
    for one, other in zip(tiny.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)  # sums in another order
    optimizer.step()
    loss_of(tiny, tokens(1, 8))
    assert max(searches.count(name) for name in searches) == 3  # the copy's among them


def test_the_warm_up_trains_without_quantization(tiny: torch.nn.Module, searches: list[str]) -> None:
    plain = copy.deepcopy(tiny)
    qat.prepare(tiny, "Q2_K", start_step=2)
    losses = []
    for model in (tiny, plain):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        model.train()
        losses.append([])
        for step in range(3):
            loss = loss_of(model, tokens(1, 8, seed=step))
            losses[-1].append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2] != losses[1][2]
    assert searches


def test_disabled_runs_on_the_unquantized_weights(tiny: torch.nn.Module) -> None:
    ids = tokens(1, 8)
    before = tiny(ids).logits
    qat.prepare(tiny, "Q2_K")
    assert not torch.equal(tiny(ids).logits, before)
    with qat.disabled(tiny):
        assert torch.equal(tiny(ids).logits, before)


def test_frozen_codes_do_not_pretend_to_learn(tiny: torch.nn.Module) -> None:
    qat.prepare(tiny, "Q4_0")
    loss_of(tiny, tokens(1, 8))
    qat.freeze_codes(tiny)
    norms = [p for n, p in tiny.named_parameters() if "norm" in n]
    optimizer = torch.optim.SGD(norms, lr=1e-2)
    first = loss_of(tiny, tokens(1, 8))
    first.backward()
    optimizer.step()
    assert loss_of(tiny, tokens(1, 8)) != first
    torch.optim.SGD(tiny.parameters(), lr=1e-2).step()
    with pytest.raises(gg.UsageError, match="codes are frozen"):
        loss_of(tiny, tokens(1, 8))


# --- surroundings -------------------------------------------------------------------------------------------------


def test_names_of_parameters_stay(tiny: torch.nn.Module) -> None:
    names = list(tiny.state_dict())
    parameters = {id(p) for p in tiny.parameters()}
    plain = {name: value.clone() for name, value in tiny.state_dict().items()}
    qat.prepare(tiny, "Q4_K_M")
    assert set(tiny.state_dict()) == set(names)
    assert {id(p) for p in tiny.parameters()} == parameters
    other = make("llama", seed=9)
    qat.prepare(other, "Q4_K_M")
    assert not any(other.load_state_dict(plain))
    torch.testing.assert_close(original(up_proj(other)), plain["model.layers.0.mlp.up_proj.weight"], rtol=0, atol=0)
    qat.convert(tiny)
    assert list(tiny.state_dict()) == names
    assert {id(p) for p in tiny.parameters()} == parameters
    assert not any(hasattr(module, "parametrizations") for module in tiny.modules())


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = make("llama")
        qat.prepare(model, "Q3_K_S", scale_refresh=4)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-3)

    _, scales = resumes_bit_for_bit(build, steps=6, file=tmp_path / "state.pt")
    other = make("gpt2")
    qat.prepare(other, "Q3_K_S")
    with pytest.raises(gg.UsageError, match="other weights"):
        qat.restore_quantized_state(other, scales)


def test_bf16_autocast(tiny: torch.nn.Module) -> None:
    qat.prepare(tiny, "Q4_K_M")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(tiny, tokens(1, 8))
    loss.backward()
    assert original(up_proj(tiny)).grad.dtype == torch.float32
    assert original(up_proj(tiny)).grad.abs().sum() > 0


def test_bf16_parameters_see_the_values_rounded() -> None:
    model = make("llama").bfloat16()
    qat.prepare(model, "Q4_0")
    module = up_proj(model)
    exact = torch.from_numpy(gg.quantize(original(module), "Q4_0").dequantize())
    assert torch.equal(module.weight.detach(), exact.bfloat16())


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_models_train(tiny: torch.nn.Module) -> None:
    qat.prepare(tiny, "Q4_0")
    wanted = loss_of(tiny, tokens(1, 8))
    compiled = torch.compile(tiny, backend="eager")
    loss = loss_of(compiled, tokens(1, 8))
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert original(up_proj(tiny)).grad.abs().sum() > 0
    assert qat.describe(compiled)


def _worker(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = make("llama")
    qat.prepare(model, "Q4_0", threads=1)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=1e-2)
    for step in range(2):
        loss_of(parallel, tokens(2, 8, seed=step)[rank : rank + 1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_two_processes_stay_in_step(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_worker, (port, str(tmp_path)), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = make("llama")
    qat.prepare(alone, "Q4_0")
    optimizer = torch.optim.SGD(alone.parameters(), lr=1e-2)
    for step in range(2):
        loss_of(alone, tokens(2, 8, seed=step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in alone.state_dict().items():
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-6)  # the mean of two means


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers(tiny: torch.nn.Module, tmp_path: Path) -> None:
    qat.prepare(tiny, "Q4_0")
    before = original(up_proj(tiny)).detach().clone()
    data = [{"input_ids": row, "labels": row} for row in tokens(8, 16)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[], save_steps=2, use_cpu=True
    )
    transformers.Trainer(tiny, arguments, train_dataset=data).train()
    assert not torch.equal(original(up_proj(tiny)), before)
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert torch.equal(saved.model.layers[0].mlp.up_proj.weight, original(up_proj(tiny)))


# --- wrong use ----------------------------------------------------------------------------------------------------


def test_wrong_use_is_refused(tiny: torch.nn.Module) -> None:
    with pytest.raises(gg.UsageError, match="call prepare first"):
        qat.convert(tiny)
    with pytest.raises(gg.ImatrixError, match=r"imatrix|importance"):
        qat.prepare(tiny, "IQ2_XS")
    with pytest.raises(gg.UsageError, match="unknown"):
        qat.prepare(tiny, "Q4_K_X")
    with pytest.raises(gg.UsageError, match="matches no tensor"):
        qat.prepare(tiny, "Q4_0", scheme={"ffn_gone": "Q4_K"})
    with pytest.raises(gg.UsageError, match="scale_refresh"):
        qat.prepare(tiny, "Q4_0", scale_refresh=0)
    with pytest.raises(gg.UsageError, match="int8"):
        qat.prepare(tiny, "Q4_0", activations="int4")
    with pytest.raises(gg.UnsupportedError, match="transformers configuration"):
        qat.prepare(torch.nn.Linear(4, 4), "Q4_0")
    assert not hasattr(up_proj(tiny), "parametrizations")
    qat.prepare(tiny, "Q4_0")
    with pytest.raises(gg.UsageError, match="under quantization already"):
        qat.prepare(tiny, "Q4_0")
    with torch.no_grad():
        original(up_proj(tiny))[0, 0] = torch.nan
    with pytest.raises(gg.NonFiniteError, match=r"mlp\.up_proj\.weight.*diverged"):
        loss_of(tiny, tokens(1, 8))


def test_experts_that_a_file_would_weigh_otherwise_are_refused() -> None:
    config = CONFIGS["qwen3moe"]()
    config.norm_topk_prob = False
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with pytest.raises(gg.UnsupportedError, match="Qwen3MoeForCausalLM: norm_topk_prob is false"):
        qat.prepare(model, "Q4_0")


def test_a_format_that_does_not_fit_is_refused() -> None:
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=96, intermediate_size=160, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(gg.UsageError, match="rows of 96 weights cannot take Q4_K"):
        qat.prepare(model, "Q8_0", scheme={"ffn_up": "Q4_K"})
    qat.prepare(model, "Q4_K_M")  # falls back as conversions do
    assert {d.format for d in qat.describe(model) if "ffn_up" in d.name} == {"Q5_0"}
