"""A Llama checkpoint of any size, to measure memory and whole conversions: the shapes of a model, made-up weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path


@dataclass(frozen=True)
class Llama:
    """Sizes of the model; the vocabulary is that of the tokenizer.

    Attributes:
        hidden, inner: widths of the residual stream and of the feed-forward part.
        heads, kv_heads, head_dim: of the attention.
    """

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int

    def layer_bytes(self) -> int:
        """Bytes of a layer's matrices in bf16."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return 2 * (attention + 3 * self.hidden * self.inner)


def write_llama(
    folder: Path, tokenizer: Path, size: Llama, layers: int, weights: Callable[[int], bytes] | None = None
) -> int:
    """Writes the checkpoint, with the tokenizer of another one.

    Args:
        weights: gives the bytes of so many bf16 weights; without it they are zeros, in a sparse file.

    Returns:
        The bytes that the weights have or, if sparse, seem to have.
    """
    for file in tokenizer.iterdir():
        if file.suffix == ".json" and file.name != "config.json":
            shutil.copy(file, folder)
    config = json.loads((tokenizer / "config.json").read_text())
    vocab = config["vocab_size"]
    config |= {"hidden_size": size.hidden, "intermediate_size": size.inner, "num_hidden_layers": layers}
    config |= {"num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads, "head_dim": size.head_dim}
    config |= {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))

    wide, narrow = size.heads * size.head_dim, size.kv_heads * size.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocab, size.hidden), "lm_head": (vocab, size.hidden)}
    shapes["model.norm"] = (size.hidden,)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes[f"{at}.self_attn.q_proj"] = (wide, size.hidden)
        shapes |= {f"{at}.self_attn.{name}_proj": (narrow, size.hidden) for name in "kv"}
        shapes[f"{at}.self_attn.o_proj"] = (size.hidden, wide)
        shapes |= {f"{at}.mlp.{name}_proj": (size.inner, size.hidden) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj"] = (size.hidden, size.inner)
        shapes |= {f"{at}.{name}": (size.hidden,) for name in ("input_layernorm", "post_attention_layernorm")}

    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * prod(shape)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if weights is None:
            file.truncate(8 + len(text) + offset)
        else:
            for shape in shapes.values():
                file.write(weights(prod(shape)))
    return offset
