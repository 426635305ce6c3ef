"""Checkpoints for the forward pass: those of the families, with windows and contexts small enough to matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from family_cases import CASES
from tiny_checkpoints import Case

#: Two chunks of 48 tokens: longer than the windows, and than the trained contexts that scaling starts from.
CHUNKS, TOKENS = 2, 48

#: Rows of the logits that are kept, counted over both chunks: the first and last of each, and some between.
ROWS = (0, 1, 7, 23, 40, 47, 48, 60, 79, 95)


def _with(name: str, **config: Any) -> Case:
    case = CASES[name]
    return replace(case, config={**case.config, **config})


_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.0 + 0.37 * i for i in range(32)],
    "short_factor": [1.0 + 0.011 * i for i in range(32)],
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

RUNTIME_CASES: dict[str, Case] = {
    "llama": _with("llama", rope_scaling=None, rope_theta=None, rope_parameters=_LLAMA3),
    "llama_f16": CASES["llama_f16"],
    "mistral": _with("mistral", sliding_window=16),
    "mixtral": _with("mixtral", sliding_window=None),
    "qwen2": _with("qwen2", rope_scaling=None, rope_parameters=_YARN, sliding_window=12, use_sliding_window=True,
                   max_window_layers=1),
    "qwen3": CASES["qwen3"],
    "qwen3moe": CASES["qwen3moe"],
    "qwen3moe_fused": CASES["qwen3moe_fused"],
    "gemma2": _with("gemma2", sliding_window=10),
    "gemma3": _with("gemma3", sliding_window=10, sliding_window_pattern=2, num_hidden_layers=3),
    "phi3": _with("phi3", original_max_position_embeddings=32, sliding_window=None, rope_scaling=None,
                  rope_theta=None, rope_parameters=_LONG),
    "phi3_short": _with("phi3", original_max_position_embeddings=64, sliding_window=20, rope_scaling=None,
                        rope_theta=None, rope_parameters=_LONG),
    "phi3_plain": _with("phi3_plain", pad_token_id=0, eos_token_id=0),
    "gpt2": CASES["gpt2"],
    "starcoder2": _with("starcoder2", sliding_window=17),
    "olmo2": CASES["olmo2"],
    "granite": CASES["granite"],
    "gpt_oss": _with("gpt_oss", sliding_window=9),
    "bert": _with("bert", num_key_value_heads=4),
}  # fmt: skip


def tokens(name: str) -> npt.NDArray[np.int64]:
    """Token ids [chunks, tokens] for a case, the same in every numpy version."""
    vocab = RUNTIME_CASES[name].config["vocab_size"]
    raw = np.random.PCG64(len(name)).random_raw(CHUNKS * TOKENS)
    return ((raw >> np.uint64(20)) % np.uint64(min(vocab, 264))).astype(np.int64).reshape(CHUNKS, TOKENS)


#: Cases that have a way back: neither experts nor sinks, and logits.
GRADIENT_CASES = tuple(
    name for name in RUNTIME_CASES if name not in ("mixtral", "qwen3moe", "qwen3moe_fused", "gpt_oss", "bert")
)


def slopes(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Factors of the logits [chunks, tokens, vocabulary] in the function that gradients are taken of."""
    return np.cos(np.arange(np.prod(shape), dtype=np.float64)).reshape(shape).astype(np.float32)
