"""Small models of several families, and folders with what a conversion needs beside their weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ggquant import qat

TINYLM = Path(__file__).parents[1] / "data" / "tinylm"

_SIZES = {"vocab_size": 4096, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
_LAYERS = {"num_hidden_layers": 2, "intermediate_size": 512, "max_position_embeddings": 128}
_TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}

#: Families whose checkpoints come with byte-level BPE, which the bundled tokenizer is.
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**_SIZES, **_LAYERS, **_TOKENS),
    "llama-tied": lambda: transformers.LlamaConfig(**_SIZES, **_LAYERS, **_TOKENS, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**_SIZES, **_LAYERS, **_TOKENS),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=4096, n_embd=256, n_layer=2, n_head=4, n_positions=128, **_TOKENS
    ),
    "qwen3moe": lambda: transformers.Qwen3MoeConfig(
        **_SIZES,
        **_LAYERS,
        **_TOKENS,
        head_dim=64,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=256,
        norm_topk_prob=True,
    ),
    "mixtral": lambda: transformers.MixtralConfig(**_SIZES, **_LAYERS, **_TOKENS, num_local_experts=4),
    "gpt-oss": lambda: transformers.GptOssConfig(
        **_SIZES, **_LAYERS, **_TOKENS, head_dim=64, num_local_experts=4, num_experts_per_tok=2
    ),
}


def make(family: str, seed: int = 0) -> torch.nn.Module:
    """A random model in float32."""
    torch.manual_seed(seed)
    model: torch.nn.Module = transformers.AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=torch.float32)
    return model


def save(model: torch.nn.Module, folder: Path) -> Path:
    """A checkpoint as transformers writes it, with the bundled tokenizer."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINYLM / name, folder / name)
    return folder


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(0, 4096, shape, generator=torch.Generator().manual_seed(seed))


def resumes_bit_for_bit(
    build: Callable[[], tuple[torch.nn.Module, torch.optim.Optimizer]], steps: int, file: Path
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Trains, saves halfway to `file`, and asserts that a new model goes on from there with the very losses.

    Returns:
        The resumed model after all steps, and its saved quantized state.
    """

    def run(model: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int) -> list[float]:
        model.train()
        losses = []
        for step in range(first, first + steps):
            ids = tokens(1, 16, seed=step)
            loss = model(ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    model, optimizer = build()
    run(model, optimizer, 0)
    torch.save([model.state_dict(), optimizer.state_dict(), qat.quantized_state(model)], file)
    wanted = run(model, optimizer, steps)
    again, fresh = build()
    weights, moments, quantized = torch.load(file)
    again.load_state_dict(weights)
    fresh.load_state_dict(moments)
    qat.restore_quantized_state(again, quantized)
    assert run(again, fresh, steps) == wanted
    return again, quantized


@pytest.fixture
def tiny() -> torch.nn.Module:
    return make("llama")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundled tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINYLM / name, folder / name)
    return folder
