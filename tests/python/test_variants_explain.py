"""Explanations, sizes, and the page made from the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ggquant.policy import (
    VARIANTS,
    CacheFacts,
    ModelFacts,
    choose,
    explain,
    file_bytes,
    kv_cache_bytes,
    render,
    sizes,
)
from ggquant.policy.docs import page
from ggquant.tensor_types import FORMATS, tensor_bytes

# Llama-3.1-8B: 32 layers, 4096 wide, 8 of 32 heads for keys and values, 14336 in the feed-forward, untied.
LLAMA_8B = ModelFacts("llama", 32, (32,) * 32, (8,) * 32)
LLAMA_8B_TENSORS = [
    ("token_embd.weight", (128256, 4096), "F32"),
    ("output.weight", (128256, 4096), "F32"),
    ("output_norm.weight", (4096,), "F32"),
    ("rope_freqs.weight", (64,), "F32"),
] + [
    (f"blk.{i}.{kind}.weight", shape, "F32")
    for i in range(32)
    for kind, shape in (
        ("attn_q", (4096, 4096)),
        ("attn_k", (1024, 4096)),
        ("attn_v", (1024, 4096)),
        ("attn_output", (4096, 4096)),
        ("ffn_gate", (14336, 4096)),
        ("ffn_up", (14336, 4096)),
        ("ffn_down", (4096, 14336)),
        ("attn_norm", (4096,)),
        ("ffn_norm", (4096,)),
    )
]


def test_the_page_is_up_to_date() -> None:
    text = (Path(__file__).parents[2] / "docs/variants.md").read_text(encoding="utf-8")
    assert text == page(), "run: python -m ggquant.policy.docs > docs/variants.md"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_explained(name: str) -> None:
    e = explain(name)
    text = render(e)
    assert text.startswith(name)
    assert "".join(piece for piece, _ in e.parts) == name.replace("_", "")
    assert all(other in VARIANTS and other != name for other, _ in e.advice.instead)
    assert all(x.format in FORMATS for x in e.exemptions)
    assert e.bits == pytest.approx(FORMATS[e.format].block_bytes * 8 / FORMATS[e.format].block_len)


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if not v.copies])
def test_formats_that_turn_up_in_a_model_are_among_those_explained(name: str) -> None:
    explained = {x.format for x in explain(name).exemptions} | {VARIANTS[name].format, "F32"}
    for imatrix in (False, True):
        decided = {d.format for d in choose(LLAMA_8B, LLAMA_8B_TENSORS, name, imatrix=imatrix)}
        assert decided <= explained


def test_q4_k_m_says_what_its_letters_mean() -> None:
    text = render(explain("q4_k"))
    assert re.search(r"K +k-quant: super-blocks of 256", text)
    assert re.search(r"M +medium", text)
    assert "+0.1754" in text
    assert "Instead: Q5_K_M" in text


def test_needs_imatrix_agrees_with_the_refusals() -> None:
    for size in sizes(LLAMA_8B_TENSORS, LLAMA_8B):
        assert size.needs_imatrix == explain(size.variant).needs_imatrix, size.variant


# The table in llama.cpp's tools/quantize/README.md. Files were made with an imatrix where one is needed,
# else without.
PUBLISHED = {
    "IQ1_S": 2.0042, "IQ1_M": 2.1460, "IQ2_XXS": 2.3824, "IQ2_XS": 2.5882, "IQ2_S": 2.7403, "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548, "IQ3_XS": 3.4977, "IQ3_S": 3.6606, "IQ3_M": 3.7628, "IQ4_XS": 4.4597, "IQ4_NL": 4.6818,
    "Q2_K_S": 2.9697, "Q2_K": 3.1593, "Q3_K_S": 3.6429, "Q3_K_M": 3.9960, "Q3_K_L": 4.2979, "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944, "Q5_K_S": 5.5704, "Q5_K_M": 5.7036, "Q6_K": 6.5633, "Q8_0": 8.5008, "F16": 16.0005,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_bits_of_llama_31_8b_are_those_published(name: str) -> None:
    (size,) = sizes(LLAMA_8B_TENSORS, LLAMA_8B, variants=[name], imatrix=explain(name).needs_imatrix)
    assert size.bits_per_weight == pytest.approx(PUBLISHED[name], abs=0.002)


def test_file_bytes_count_header_and_padding() -> None:
    decisions = choose(LLAMA_8B, [("blk.0.ffn_up.weight", (3, 40), "F32"), ("d", (5,), "F32")], "F32")
    # 24 fixed, then per tensor: name length and name, dimension count, dimensions, type, offset.
    header = 24 + (8 + 19 + 4 + 16 + 4 + 8) + (8 + 1 + 4 + 8 + 4 + 8)
    assert file_bytes(decisions) == -(-header // 32) * 32 + 480 + 32
    assert file_bytes(decisions, metadata_bytes=100) == -(-(header + 100) // 32) * 32 + 480 + 32


def test_a_variant_that_cannot_be_made_is_listed_with_its_problem() -> None:
    (size,) = sizes([("blk.0.ffn_up.weight", (3, 100), "F32")], LLAMA_8B, variants=["Q1_0"])
    assert size.problem is not None
    assert size.data_bytes == 0


def test_weights_are_counted_by_format() -> None:
    (size,) = sizes(LLAMA_8B_TENSORS, LLAMA_8B, variants=["Q4_K_M"])
    assert sum(size.weights.values()) == 8030261312
    assert set(size.weights) == {"F32", "Q4_K", "Q6_K"}
    assert size.data_bytes == sum(tensor_bytes(d.shape, d.format) for d in choose(LLAMA_8B, LLAMA_8B_TENSORS, "Q4_K_M"))


def cache(arch: str, **keys: object) -> CacheFacts:
    named = {f"{arch}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return CacheFacts.from_metadata({"general.architecture": arch, **named})


def test_the_cache_of_a_plain_model() -> None:
    facts = cache("llama", block_count=32, embedding_length=4096, attention__head_count=32, attention__head_count_kv=8)
    assert kv_cache_bytes(facts, 8192) == 8192 * 32 * 2 * 1024 * 2  # 1 GiB, as llama.cpp reports it
    assert kv_cache_bytes(facts, 8192, k_format="Q8_0", v_format="Q8_0") == 8192 * 32 * 2 * 1024 * 34 // 32


def test_windows_bound_the_cache() -> None:
    facts = cache(
        "gemma3",
        block_count=6,
        embedding_length=2560,
        attention__head_count=8,
        attention__head_count_kv=4,
        attention__key_length=256,
        attention__value_length=256,
        attention__sliding_window=1024,
    )
    assert facts.windows == (1024,) * 5 + (0,)
    assert kv_cache_bytes(facts, 32768) == (5 * 1536 + 32768) * 2 * 1024 * 2
    assert kv_cache_bytes(facts, 512) == 6 * 512 * 2 * 1024 * 2


def test_latent_attention_caches_one_vector_and_recurrent_layers_none() -> None:
    mla = cache(
        "deepseek2",
        block_count=61,
        embedding_length=7168,
        attention__head_count=128,
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
    )
    assert kv_cache_bytes(mla, 4096) == 61 * 4096 * 576 * 2
    hybrid = cache(
        "qwen3next",
        block_count=48,
        embedding_length=2048,
        attention__head_count=16,
        attention__head_count_kv=2,
        attention__key_length=256,
        attention__value_length=256,
        full_attention_interval=4,
    )
    assert kv_cache_bytes(hybrid, 1000) == 12 * 1000 * 2 * 512 * 2
