"""The checkpoints that each model family is tried on."""

from __future__ import annotations

from functools import partial
from typing import Any

import tiny_checkpoints as tiny
from tiny_checkpoints import Case
from tiny_tokenizers import (
    TEMPLATE,
    byte_level,
    sentencepiece,
    sentencepiece_json,
    slow,
    unigram_json,
    unigram_model,
    wordpiece,
)

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_CARD = """---
license: apache-2.0
language:
- en
- no
base_model: some-org/Base-Model-7B
datasets:
- HuggingFaceTB/cosmo-v2
- https://huggingface.co/datasets/who/what
tags: [chat, tiny]
pipeline_tag: text-generation
---
# A model
"""


_ADDED_TOKEN = {
    "__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "normalized": False, "rstrip": False,
    "single_word": False, "special": True,
}  # fmt: skip


_LATER = {k: v for k, v in _ADDED_TOKEN.items() if k[0] != "_"} | {"content": "<later>", "special": False}


def _config(architecture: str, model_type: str, **values: Any) -> dict[str, Any]:
    base = {"hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 2, "vocab_size": 288}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {"architectures": [architecture], "model_type": model_type, **base, **heads, **values}


CASES: dict[str, Case] = {
    "llama": Case(
        "Tiny-Llama-3.2-1B-Instruct-v0.1",
        _config(
            "LlamaForCausalLM", "llama", num_hidden_layers=3, hidden_size=320, num_attention_heads=5,
            num_key_value_heads=1, max_position_embeddings=131072, rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_theta=500000.0, torch_dtype="bfloat16", bos_token_id=264, eos_token_id=[265, 266],
            rope_scaling={
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
        ),
        partial(tiny.decoder, head=False),
        byte_level(
            specials=("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
            plain=("<|tool|>", "  "),
            prefix="<|begin_of_text|>",
            splits=_LLAMA3_SPLIT,
            pair_merges=True,
            config={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": TEMPLATE},
        ),
        files={
            "README.md": _CARD,
            "generation_config.json": """{
                "temperature": 0.6, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1
            }""",
        },
        shards=2,
        pre="llama-bpe",
    ),
    "llama_f16": Case(
        "llama_f16",
        _config(
            "LlamaForCausalLM", "llama", max_position_embeddings=2048, rms_norm_eps=1e-6, attention_bias=True,
            rope_parameters={"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}, dtype="float16",
            bos_token_id=1, eos_token_id=2, vocab_size=300,
        ),
        partial(tiny.decoder, bias=("q", "k", "v", "o")),
        sentencepiece(
            added={1: ("<s>", True), 272: ("<|im_start|>", False), 273: ("\u2581two\u2581words", False)},
            added_json={"<extra>": 275},
            config={"add_bos_token": True, "add_eos_token": False, "add_prefix_space": False},
        ),
        dtype="F16",
    ),
    "mistral": Case(
        "Tiny-Mistral-v0.3",
        _config(
            "MistralForCausalLM", "mistral", head_dim=32, max_position_embeddings=32768, rms_norm_eps=1e-5,
            sliding_window=4096, rope_theta=1000000.0, torch_dtype="bfloat16", bos_token_id=1, eos_token_id=2,
            vocab_size=274,
        ),
        tiny.decoder,
        sentencepiece_json({"chat_template": [
            {"name": "default", "template": TEMPLATE}, {"name": "tool use", "template": "{{ tools }}"},
        ]}),
    ),
    "mixtral": Case(
        "mixtral-8x7b-tiny",
        _config(
            "MixtralForCausalLM", "mixtral", num_local_experts=4, num_experts_per_tok=2, rms_norm_eps=1e-5,
            max_position_embeddings=32768, rope_theta=1000000.0, torch_dtype="bfloat16", bos_token_id=1,
            eos_token_id=2,
        ),
        tiny.mixtral,
        sentencepiece(),
    ),
    "qwen2": Case(
        "Qwen2.5-0.5B-Tiny",
        _config(
            "Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True, rms_norm_eps=1e-6, sliding_window=32768,
            max_position_embeddings=32768, max_window_layers=1, use_sliding_window=False,
            rope_theta=1000000.0,
            rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
            torch_dtype="float32", bos_token_id=264, eos_token_id=265,
        ),
        partial(tiny.decoder, bias=("q", "k", "v"), head=False),
        byte_level(
            specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
            config={"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                    "add_bos_token": False, "chat_template": TEMPLATE},
        ),
        dtype="F32",
        pre="qwen2",
    ),
    "qwen3": Case(
        "Qwen3-tiny",
        _config(
            "Qwen3ForCausalLM", "qwen3", head_dim=48, rms_norm_eps=1e-6, max_position_embeddings=40960,
            rope_theta=1000000, torch_dtype="bfloat16", eos_token_id=264,
        ),
        partial(tiny.decoder, head_norms=True),
        byte_level(config={"eos_token": _ADDED_TOKEN, "add_bos_token": False}),
        files={"chat_template.jinja": TEMPLATE + "\n"},
    ),
    "qwen3_tokens": Case(
        "qwen3_tokens",
        _config(
            "Qwen3ForCausalLM", "qwen3", head_dim=32, rms_norm_eps=1e-6, max_position_embeddings=1024,
            rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"}, dtype="bfloat16",
        ),
        partial(tiny.decoder, head_norms=True),
        byte_level(
            plain=("\u2581x", "a b", "\u00e9t", "<mask>"),
            config={
                "bos_token": "<|endoftext|>",
                "pad_token": "[PAD]",
                "additional_special_tokens": ["<new>"],
                "added_tokens_decoder": {"290": _LATER, "264": {k: v for k, v in _ADDED_TOKEN.items() if k[0] != "_"}},
            },
        ),
    ),
    "qwen3moe": Case(
        "Qwen3-30B-A3B-tiny",
        _config(
            "Qwen3MoeForCausalLM", "qwen3_moe", head_dim=32, num_experts=4, num_experts_per_tok=2,
            moe_intermediate_size=96, norm_topk_prob=True, rms_norm_eps=1e-6, max_position_embeddings=40960,
            rope_theta=1000000.0, torch_dtype="bfloat16", decoder_sparse_step=1, mlp_only_layers=[],
        ),
        tiny.qwen3moe,
        byte_level(),
    ),
    "qwen3moe_fused": Case(
        "qwen3moe_fused",
        _config(
            "Qwen3MoeForCausalLM", "qwen3_moe", head_dim=32, num_experts=4, num_experts_per_tok=2,
            moe_intermediate_size=256, rms_norm_eps=1e-6, max_position_embeddings=40960, dtype="bfloat16",
            rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"},
        ),
        partial(tiny.qwen3moe, fused=True),
        byte_level(),
    ),
    "gemma2": Case(
        "gemma-2-2b-tiny",
        _config(
            "Gemma2ForCausalLM", "gemma2", head_dim=64, max_position_embeddings=8192, rms_norm_eps=1e-6,
            sliding_window=4096, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
            hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=256, rope_theta=10000.0,
            torch_dtype="bfloat16", bos_token_id=2, eos_token_id=1, pad_token_id=0,
        ),
        tiny.gemma2,
        sentencepiece(config={"tokenizer_class": "GemmaTokenizer", "chat_template": TEMPLATE}),
    ),
    "gemma2_f16": Case(
        "gemma2_f16",
        _config(
            "Gemma2ForCausalLM", "gemma2", head_dim=32, max_position_embeddings=8192, rms_norm_eps=1e-6,
            sliding_window=4096, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
            query_pre_attn_scalar=144, dtype="float16", bos_token_id=2, eos_token_id=1, num_hidden_layers=1,
            rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
        ),
        tiny.gemma2,
        sentencepiece(config={"tokenizer_class": "GemmaTokenizer"}),
        dtype="F16",
    ),
    "gemma3": Case(
        "gemma-3-1b-it-tiny",
        _config(
            "Gemma3ForCausalLM", "gemma3_text", head_dim=64, max_position_embeddings=32768, rms_norm_eps=1e-6,
            sliding_window=512, sliding_window_pattern=6, query_pre_attn_scalar=256, rope_theta=1000000,
            rope_local_base_freq=10000, rope_scaling={"rope_type": "linear", "factor": 8.0},
            torch_dtype="bfloat16", bos_token_id=2, eos_token_id=[1, 106],
        ),
        tiny.gemma3,
        sentencepiece(config={"tokenizer_class": "GemmaTokenizer"}, added={272: ("<unused0>", False)}),
        files={"generation_config.json": '{"top_k": 64, "top_p": 0.95}'},
    ),
    "gemma3_vision": Case(
        "gemma3_vision",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "text_config": _config("Gemma3ForCausalLM", "gemma3_text", head_dim=64, sliding_window=1024)
            | {"rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000},
            }},
            "vision_config": {"hidden_size": 32, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
            "dtype": "bfloat16",
        },
        tiny.gemma3_with_vision,
        sentencepiece(config={"tokenizer_class": "GemmaTokenizer"}),
    ),
    "phi3": Case(
        "Phi-3-mini-128k-instruct",
        _config(
            "Phi3ForCausalLM", "phi3", num_key_value_heads=4, max_position_embeddings=131072,
            original_max_position_embeddings=4096, rms_norm_eps=1e-5, sliding_window=262144,
            rope_theta=10000.0,
            rope_scaling={
                "type": "longrope",
                "long_factor": [1.0 + 0.37 * i for i in range(32)],
                "short_factor": [1.0 + 0.011 * i for i in range(32)],
            },
            torch_dtype="bfloat16", bos_token_id=1, eos_token_id=2, pad_token_id=2,
        ),
        tiny.phi3,
        sentencepiece(added={272: ("<|system|>", True), 273: ("<|user|>", False)}, tokenizer_json=True),
    ),
    "phi3_plain": Case(
        "phi3_plain",
        _config(
            "Phi3ForCausalLM", "phi3", max_position_embeddings=4096, rms_norm_eps=1e-5,
            rope_parameters={"rope_theta": 250000.0, "rope_type": "default", "partial_rotary_factor": 0.75},
            dtype="bfloat16", sliding_window=None,
        ),
        tiny.phi3,
        byte_level(config={"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>",
                           "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}),
    ),
    "gpt2": Case(
        "gpt2",
        {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_ctx": 128, "n_positions": 128,
            "n_embd": 96, "n_head": 4, "n_layer": 2, "vocab_size": 265, "layer_norm_epsilon": 1e-5,
            "bos_token_id": 264, "eos_token_id": 264,
        },
        tiny.gpt2,
        byte_level(),
        dtype="F32",
    ),
    "starcoder2": Case(
        "starcoder2-3b-tiny",
        _config(
            "Starcoder2ForCausalLM", "starcoder2", max_position_embeddings=16384, norm_epsilon=1e-5,
            sliding_window=4096, rope_theta=999999.4420358813, use_bias=True, torch_dtype="bfloat16",
            bos_token_id=264, eos_token_id=264,
        ),
        tiny.starcoder2,
        byte_level(),
    ),
    "olmo2": Case(
        "OLMo-2-0425-1B-tiny",
        _config(
            "Olmo2ForCausalLM", "olmo2", max_position_embeddings=4096, rms_norm_eps=1e-6, rope_theta=500000,
            torch_dtype="bfloat16", eos_token_id=264, pad_token_id=265,
        ),
        tiny.olmo2,
        byte_level(specials=("<|endoftext|>", "<|pad|>")),
    ),
    "granite": Case(
        "granite-3.3-2b-tiny",
        _config(
            "GraniteForCausalLM", "granite", max_position_embeddings=131072, rms_norm_eps=1e-5,
            attention_multiplier=0.015625, embedding_multiplier=12.0, residual_multiplier=0.22,
            logits_scaling=8.0, rope_theta=10000000.0, torch_dtype="bfloat16", tie_word_embeddings=True,
            bos_token_id=264, eos_token_id=264,
        ),
        partial(tiny.decoder, head=False),
        byte_level(config={"bos_token": "<|endoftext|>", "add_prefix_space": False}),
    ),
    "gpt_oss": Case(
        "gpt-oss-tiny",
        _config(
            "GptOssForCausalLM", "gpt_oss", head_dim=32, num_local_experts=4, num_experts_per_tok=2,
            intermediate_size=96, sliding_window=128, max_position_embeddings=131072, rms_norm_eps=1e-5,
            rope_theta=150000, rope_scaling={
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn", "truncate": False,
                "original_max_position_embeddings": 4096,
            },
            torch_dtype="bfloat16", eos_token_id=264, layer_types=["sliding_attention", "full_attention"],
        ),
        tiny.gpt_oss,
        byte_level(),
    ),
    "gpt_oss_mxfp4": Case(
        "gpt-oss-20b-tiny",
        _config(
            "GptOssForCausalLM", "gpt_oss", head_dim=32, num_local_experts=4, num_experts_per_tok=2,
            intermediate_size=96, sliding_window=128, max_position_embeddings=131072, rms_norm_eps=1e-5,
            quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]},
            eos_token_id=264,
        ),
        partial(tiny.gpt_oss, packed=True),
        byte_level(),
    ),
    "fp8_plain": Case(
        "mistral-fp8-plain",
        _config(
            "MistralForCausalLM", "mistral", head_dim=32, max_position_embeddings=4096, rms_norm_eps=1e-5,
            rope_theta=1000000.0, torch_dtype="bfloat16", bos_token_id=264, eos_token_id=264, num_hidden_layers=1,
        ),
        tiny.decoder,
        byte_level(),
        dtypes={"_proj.weight": "F8_E4M3"},
    ),
    "fp8_blocks": Case(
        "Qwen3-tiny-FP8",
        _config(
            "Qwen3ForCausalLM", "qwen3", head_dim=48, rms_norm_eps=1e-6, max_position_embeddings=40960,
            rope_theta=1000000, torch_dtype="bfloat16", eos_token_id=264,
            quantization_config={"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                 "weight_block_size": [128, 128]},
        ),
        tiny.fp8_blocks,
        byte_level(),
        dtypes={"_proj.weight": "F8_E4M3"},
    ),
    "fp8_experts": Case(
        "Qwen3-30B-A3B-tiny-FP8",
        _config(
            "Qwen3MoeForCausalLM", "qwen3_moe", head_dim=32, num_experts=4, num_experts_per_tok=2,
            moe_intermediate_size=192, norm_topk_prob=True, rms_norm_eps=1e-6, max_position_embeddings=40960,
            rope_theta=1000000.0, torch_dtype="bfloat16", decoder_sparse_step=1, mlp_only_layers=[],
            quantization_config={"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                 "weight_block_size": [128, 128]},
        ),
        tiny.fp8_experts,
        byte_level(),
        dtypes={"_proj.weight": "F8_E4M3", "_scale_inv": "F32"},
    ),
    "fp8_rows": Case(
        "Llama-3.1-8B-FP8-dynamic-tiny",
        _config(
            "LlamaForCausalLM", "llama", rms_norm_eps=1e-5, max_position_embeddings=8192, rope_theta=500000.0,
            torch_dtype="bfloat16", bos_token_id=264, eos_token_id=264,
            quantization_config={
                "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
                    "num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "group_size": None,
                    "block_structure": None,
                }}},
            },
        ),
        tiny.fp8_rows,
        byte_level(),
        dtypes={"_proj.weight": "F8_E4M3"},
    ),
    "bert": Case(
        "all-MiniLM-tiny",
        _config(
            "BertModel", "bert", max_position_embeddings=64, type_vocab_size=2, layer_norm_eps=1e-12,
            vocab_size=24, pad_token_id=0, hidden_act="gelu",
        ),
        tiny.bert,
        wordpiece,
        dtype="F32",
        files={
            "modules.json": '[{"idx": 1, "name": "1", "path": "1_Pooling", "type": "a.models.Pooling"}]',
            "1_Pooling/config.json": '{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}',
        },
    ),
    "xlm_roberta": Case(
        "bge-m3-tiny",
        _config(
            "XLMRobertaModel", "xlm-roberta", max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
            vocab_size=18, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        ),
        tiny.xlm_roberta,
        unigram_json,
        dtype="F32",
    ),
    "xlm_roberta_spm": Case(
        "xlm-roberta-tiny",
        _config(
            "XLMRobertaModel", "xlm-roberta", max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
            vocab_size=20, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        ),
        tiny.bert,
        unigram_model,
        dtype="F32",
    ),
    "gpt2_slow": Case(
        "gpt2-slow",
        {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_ctx": 64, "n_positions": 64, "n_embd": 32,
            "n_head": 2, "n_layer": 1, "vocab_size": 265, "layer_norm_epsilon": 1e-5, "bos_token_id": 264,
            "eos_token_id": 264,
        },
        tiny.gpt2,
        slow(byte_level(), None),
        dtype="F32",
    ),
    "qwen2_slow": Case(
        "qwen2-slow",
        _config(
            "Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True, rms_norm_eps=1e-6, rope_theta=1000000.0,
            max_position_embeddings=32768, torch_dtype="bfloat16", bos_token_id=264, eos_token_id=265,
            num_hidden_layers=1,
        ),
        partial(tiny.decoder, bias=("q", "k", "v"), head=False),
        slow(
            byte_level(specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), plain=("<tool>",)),
            {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>",
             "pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]},
            {"special_tokens_map.json": '{"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"}'},
        ),
        pre="qwen2",
    ),
    "bert_slow": Case(
        "bert-slow",
        _config(
            "BertModel", "bert", max_position_embeddings=64, type_vocab_size=2, layer_norm_eps=1e-12, vocab_size=22,
            pad_token_id=0, num_hidden_layers=1,
        ),
        tiny.bert,
        slow(wordpiece, {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}),
        dtype="F32",
    ),
}  # fmt: skip
