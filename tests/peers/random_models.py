"""Random models for comparing decisions: any architecture that loads, any mix of tensors, awkward rows
included."""

from __future__ import annotations

import random
from typing import Any

from dry_run import Model
from ggquant.policy.architectures import LLAMA_CPP_ARCHITECTURES


def _words(text: str) -> list[str]:
    return text.split()


# These load only with metadata of a kind that has no bearing on formats; clip has no hyperparameters at all.
NOT_LOADABLE = {"clip", "deepseek4", "dflash", "dots3note", "eagle3", "hrm_text", "hy_v4", "wavtokenizer-dec"}
ARCHITECTURES = sorted(LLAMA_CPP_ARCHITECTURES - NOT_LOADABLE)
# Drawn more often: rules name them, or they are what people quantize.
FAVOURED = _words(
    """
    llama llama llama llama llama-embed qwen2 qwen3 qwen3moe gemma2 gemma3 phi3 falcon falcon falcon
    gpt2 starcoder2 deepseek2 deepseek2 gpt-oss bert glm4moe mamba deci olmo jais2 nanbeige
    graniteswitch bailingmoe3 bailingmoe3 glm5-next glm5-next gemma3n rwkv7 t5 nemotron_h qwen3next
    """
)

_OUTER = _words(
    """
    token_embd.weight output_norm.weight token_embd_norm.weight per_layer_token_embd.weight
    rope_freqs.weight per_layer_model_proj.weight per_layer_proj_norm.weight altup_proj.weight
    position_embd.weight token_types.weight cls.weight cls.bias dense_2.weight
    nextn.pre_projection.weight output.bias d2t fc.weight conv1d.weight v.patch_embd.weight
    v.position_embd.weight mm.a.code_embd.weight mm.0.weight v.blk.0.attn_v.weight abcde w
    """
)
_ATTENTION = _words(
    """
    attn_norm.weight attn_q.weight attn_k.weight attn_v.weight attn_output.weight attn_q.bias
    attn_v.bias attn_q_norm.weight attn_sinks.weight attn_gate.weight attn_output_norm.weight
    """
)
_FUSED = _words("attn_norm.weight attn_qkv.weight attn_qkv.bias attn_output.weight attn_output.bias")
_MLA = _words(
    """
    attn_norm.weight attn_q_a.weight attn_q_b.weight attn_kv_a_mqa.weight attn_kv_b.weight
    attn_k_b.weight attn_v_b.weight attn_output.weight attn_kv_a_norm.weight indexer.attn_k.weight
    indexer.attn_q_b.weight indexer.proj.weight indexer.k_proj.weight
    """
)
_STATE = _words(
    """
    ssm_in.weight ssm_conv1d.weight ssm_x.weight ssm_dt.weight ssm_a ssm_out.weight ssm_beta.weight
    ssm_f_a.weight shortconv.conv.weight shortconv.in_proj.weight time_mix_w1.weight
    time_mix_key.weight time_mix_lerp_fused.weight time_mix_decay_w1.weight time_mix_output.weight
    channel_mix_key.weight
    """
)
_DENSE = _words("ffn_norm.weight ffn_up.weight ffn_gate.weight ffn_down.weight ffn_down.bias")
_EXPERTS = _words(
    """
    ffn_norm.weight ffn_gate_inp.weight ffn_up_exps.weight ffn_gate_exps.weight ffn_down_exps.weight
    ffn_up_shexp.weight ffn_gate_shexp.weight ffn_down_shexp.weight ffn_gate_up_exps.weight
    exp_probs_b.bias ffn_gate_inp_shexp.weight ffn_gate_tid2eid.weight ffn_down_exps.bias
    """
)
_ODD = _words(
    """
    nextn.eh_proj.weight nextn.shared_head_head.weight hc_attn_fn.weight laurel_l.weight proj.weight
    inp_gate.weight attn_rel_b.weight layer_output_scale.weight indexer_compressor_gate.weight
    """
)

ROWS_THAT_FIT = (256, 512, 768, 2816)
ROWS_THAT_DO_NOT = (32, 64, 96, 128, 160, 2880, 100, 33, 1, 192)


def required_metadata(arch: str, n_layer: int, rng: random.Random) -> dict[str, Any]:
    """Keys that one architecture or another insists on. Only those for layers, heads and experts matter
    here."""
    keys: dict[str, Any] = {
        "context_length": 512,
        "embedding_length": 512,
        "feed_forward_length": 1024,
        "block_count": n_layer,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "expert_feed_forward_length": 64,
        "expert_shared_count": 1,
        "wkv.head_size": 64,
        "expert_gating_func": 2,
        "kda.head_dim": 64,
        "kda.gate_lower_bound": -1.0,
        "logit_scale": 1.0,
        "residual_scale": 1.0,
        "leading_dense_block_count": 1,
        "rope.freq_base_swa": 1e4,
        "use_parallel_residual": True,
        "interleave_moe_layer_step": 1,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "expert_group_scale": 1.0,
        "experts_per_group": 8,
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 2,
        "hyper_connection.epsilon": 1e-5,
        "hyper_connection.magnitude": 1.0,
        "hyper_connection.low_rank": 8,
        "attn_res.block_size": 8,
        "activation.situ_beta": 1.0,
        "activation.situ_linear_beta": 1.0,
        "shortconv.l_cache": 8,
        "swiglu_clamp_exp": [1.0] * n_layer,
        "rope.dimension_sections": [16, 8, 8, 0],
        "time_mix_extra_dim": 8,
        "time_decay_extra_dim": 8,
        "embedding_length_per_layer_input": 8,
        "adapters.count": 2,
        "adapters.lora_rank": 8,
        "adapters.token_ids_activate": [1, 2],
        "adapters.token_ids_substitute": [3, 4],
        "attention.clamp_kqv": 1.0,
        "attention.sliding_window": 128,
        "attention.sliding_window_pattern": [bool(i % 2) for i in range(n_layer)],
        "attention.relative_buckets_count": 8,
    }
    for name in _words(
        """
    decay_lora_rank iclr_lora_rank value_residual_mix_lora_rank q_lora_rank kv_lora_rank
    kv_lora_rank_swa key_length_mla value_length_mla key_length_mla_swa value_length_mla_swa
    key_length_swa value_length_swa indexer.head_count indexer.key_length indexer.top_k
    indexer.block_size indexer.local_blocks indexer.kpool
    """
    ):
        keys[f"attention.{name}"] = 8
    for name in _words("conv_kernel inner_size state_size time_step_rank group_count"):
        keys[f"ssm.{name}"] = 8
    if arch in (
        "gemma2",
        "gemma3",
        "gpt-oss",
        "cohere2",
        "olmo2",
        "exaone4",
        "llama4",
        "phi3",
        "smallthinker",
    ):
        del keys["attention.sliding_window_pattern"]
    metadata = {f"{arch}.{key}": value for key, value in keys.items()}
    for name in _words("alpha_n alpha_p beta eps"):
        metadata[f"xielu.{name}"] = [1.0] * n_layer if arch == "apertus" else 1.0
    return metadata


def random_model(seed: int) -> Model:
    """The model of a seed."""
    rng = random.Random(seed)
    arch = rng.choice(FAVOURED) if rng.random() < 0.6 else rng.choice(ARCHITECTURES)
    n_layer = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 15, 16, 17, 20, 23, 24, 28, 31, 32, 33, 40, 48, 68, 80])
    if arch in ("llama", "qwen2", "deci", "olmo") and rng.random() < 0.3:
        n_layer = 80
    metadata = required_metadata(arch, n_layer, rng)
    heads = rng.choice([8, 16, 32])
    kv_heads = rng.choice([h for h in (1, 2, 4, 8, 16, 32) if h <= heads])
    if rng.random() < 0.1:
        metadata[f"{arch}.attention.head_count"] = [rng.choice([8, 16]) for _ in range(n_layer)]
    else:
        metadata[f"{arch}.attention.head_count"] = heads
    if rng.random() < 0.15:
        metadata[f"{arch}.attention.head_count_kv"] = [rng.choice([0, 1, 2, 4, 8]) for _ in range(n_layer)]
    elif rng.random() < 0.9:
        metadata[f"{arch}.attention.head_count_kv"] = kv_heads
    if arch in ("llama", "llama-embed", "deci", "falcon"):
        metadata.pop(f"{arch}.rope.dimension_count", None)
    # apertus sizes its arrays without the blocks for multi-token prediction.
    nextn = rng.choice([0, 0, 0, 1]) if n_layer > 1 and arch != "apertus" else 0
    if nextn:
        metadata[f"{arch}.nextn_predict_layers"] = nextn
    if arch == "nanbeige" and rng.random() < 0.7:
        metadata[f"{arch}.num_loops"] = rng.choice([1, 2, 3])
    experts = rng.choice([0, 0, 0, 1, 2, 3, 4, 8, 8, 8, 16, 64, 128])
    if experts:
        metadata[f"{arch}.expert_count"] = experts
        metadata[f"{arch}.expert_used_count"] = 1
    return Model(arch, metadata, _tensors(rng, n_layer, experts), note=f"seed {seed}")


def _tensors(rng: random.Random, n_layer: int, experts: int) -> list[tuple[str, tuple[int, ...], str]]:
    awkward = rng.random()
    floats = rng.choice(["F32", "F16", "BF16"])

    def shape(name: str) -> tuple[int, ...]:
        fits = rng.random() < awkward
        row = rng.choice(ROWS_THAT_FIT) if fits else rng.choice(ROWS_THAT_DO_NOT)
        if "norm" in name or name.endswith(("bias", "ssm_a", "sinks.weight", "scale.weight")):
            return (row,)
        if "_exps.weight" in name and experts:
            return (experts, 4, row)
        if rng.random() < 0.05:
            return (rng.choice([1, 3]), rng.choice([1, 4]), row)
        return (1, row) if rng.random() < 0.02 else (6, row)

    names = [n for n in _OUTER if rng.random() < (0.9 if n == "token_embd.weight" else 0.12)]
    if rng.random() < 0.6:
        names.append("output.weight")
    kinds = [
        [_ATTENTION, _DENSE],
        [_FUSED, _DENSE],
        [_MLA, _EXPERTS],
        [_ATTENTION, _EXPERTS],
        [_STATE, _DENSE],
    ]
    lead, rest = rng.choice(kinds), rng.choice(kinds)
    per_layer = rng.random() < 0.3  # whether layers differ among themselves
    left_out = {n for n in (*_ATTENTION, *_FUSED, *_MLA, *_DENSE, *_EXPERTS) if rng.random() < 0.1}
    odd = [n for n in _ODD if rng.random() < 0.1]
    for layer in range(n_layer):
        groups = rng.choice(kinds) if per_layer else (lead if layer < n_layer // 5 else rest)
        wanted = [n for group in groups for n in group] + odd
        names += [f"blk.{layer}.{n}" for n in wanted if n not in left_out and not (per_layer and rng.random() < 0.2)]
    if rng.random() < 0.05:
        names.append(rng.choice([f"blk.{n_layer}.ffn_up.weight", "enc.blk.0.ffn_gate.weight", "mtp.ffn_down.weight"]))
    rng.shuffle(names)
    shapes: dict[str, tuple[int, ...]] = {}
    tensors = []
    for name in dict.fromkeys(names):
        kind = name.split(".", 2)[-1] if name.startswith("blk.") else name
        # Layers mostly agree in their shapes; a few do not.
        if kind not in shapes or rng.random() < 0.05:
            shapes[kind] = shape(name)
        dtype = "F32" if len(shapes[kind]) == 1 else floats
        tensors.append((name, shapes[kind], dtype))
    return tensors
