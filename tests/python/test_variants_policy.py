"""The policy's edges: options, refusals, names, order, and that it is total."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggquant.overrides import Options, OverrideError
from ggquant.policy import (
    ALIASES,
    VARIANTS,
    Category,
    MisfitError,
    ModelFacts,
    PolicyError,
    UnknownVariantError,
    categorize,
    choose,
    copied_file_type,
    find_variant,
    order_key,
    prune,
    refusals,
    variant_label,
    warnings,
)
from ggquant.policy.refuse import Obstacle
from ggquant.tensor_types import FORMATS, tensor_bytes

FACTS = ModelFacts("llama", 4, (8,) * 4, (8,) * 4)
SMALL = [
    ("token_embd.weight", (32, 256), "F32"),
    ("output_norm.weight", (256,), "F32"),
    *((f"blk.{i}.{kind}.weight", (256, 256), "F32") for i in range(4) for kind in ("attn_v", "ffn_down")),
    ("blk.0.ffn_up.weight", (4, 100), "F32"),
]


def formats(variant: str, **options: Any) -> dict[str, str]:
    given_options = Options(**options)
    return {d.name: d.format for d in choose(FACTS, SMALL, variant, options=given_options)}


def test_names_are_accepted_in_any_case_as_aliases_and_as_numbers() -> None:
    assert find_variant("q4_k_m") is find_variant("Q4_K") is find_variant("15") is VARIANTS["Q4_K_M"]
    assert find_variant("0").name == "F32"
    assert find_variant("copy").copies
    for name, variant in VARIANTS.items():
        if not variant.copies:
            assert find_variant(str(variant.file_type)).file_type == variant.file_type
            assert find_variant(name.lower()) is variant


@pytest.mark.parametrize(("typed", "label"), [("15", "Q4_K"), ("12", "Q3_K"), ("q5_k", "Q5_K"), ("2", "Q4_0")])
def test_default_file_names_keep_the_spelling_of_llama_quantize(typed: str, label: str) -> None:
    assert variant_label(typed) == label


@pytest.mark.parametrize("name", ["", "Q4_K_XL", "4", "33", "1024", "-1", "NVFP4", "Q8_K", "٢"])
def test_unknown_names_are_errors(name: str) -> None:
    with pytest.raises(UnknownVariantError):
        find_variant(name)


def test_an_unknown_name_is_answered_with_a_near_one() -> None:
    with pytest.raises(UnknownVariantError, match=r"did you mean .*Q4_K_M"):
        find_variant("Q4_KM")


def test_ours_are_spelled_after_a_variant_of_llama_cpp() -> None:
    for name in ("Q2_K_L", "Q4_K_L", "Q5_K_L", "Q6_K_L"):
        variant = VARIANTS[name]
        base = VARIANTS[str(variant.base)]
        assert (variant.file_type, variant.format, variant.rules) == (base.file_type, base.format, base.rules)
        spelled = formats(name)
        asked = formats(base.name, output_tensor_type="Q8_0", token_embedding_type="Q8_0")
        assert spelled == asked
        assert spelled["token_embd.weight"] == "Q8_0"
    odd = [("token_embd.weight", (4, 100), "F32")]
    assert choose(FACTS, odd, "Q4_K_L")[0].format == "F16"


def test_decisions_say_why() -> None:
    why = {d.name: d.why for d in choose(FACTS, SMALL, "Q4_K_M")}
    assert why["blk.0.ffn_down.weight"].startswith("Q4_K_M: ")
    assert why["output_norm.weight"] == "kept: one-dimensional"
    assert "number 4 of 4" in why["blk.3.attn_v.weight"]
    assert "also the output" in why["token_embd.weight"]
    up = next(d for d in choose(FACTS, SMALL, "Q4_K_M") if d.name == "blk.0.ffn_up.weight")
    assert (up.wanted, up.format) == ("Q4_K", "F16")
    assert up.fallback is not None
    assert "rows of 100" in up.fallback


def test_a_format_asked_for_by_name_must_fit() -> None:
    odd = [("token_embd.weight", (4, 100), "F32"), ("output.weight", (4, 100), "F32")]
    with pytest.raises(MisfitError, match=r"token_embd\.weight.*--token-embedding-type"):
        choose(FACTS, odd, "Q4_K_M", options=Options(token_embedding_type="Q8_0"))
    with pytest.raises(MisfitError, match=r"output\.weight.*--output-tensor-type"):
        choose(FACTS, odd, "Q4_K_M", options=Options(output_tensor_type="Q4_K"))


def test_the_first_matching_tensor_type_wins() -> None:
    decided = formats("Q4_K_M", tensor_types=[("attn_v", "q8_0"), (r"blk\.0\.", "Q6_K")])
    assert decided["blk.0.attn_v.weight"] == "Q8_0"
    assert decided["blk.0.ffn_down.weight"] == "Q6_K"


def test_tensor_types_leave_float_variants_alone_and_that_is_said() -> None:
    options = Options(tensor_types=[("attn_v", "Q8_0")])
    decisions = choose(FACTS, SMALL, "F16", options=options)
    assert {d.format for d in decisions if d.quantizable} == {"F16"}
    assert any("no effect" in w for w in warnings(FACTS, decisions, "F16", options=options))


def test_patterns_without_a_tensor_and_unknown_architectures_are_said() -> None:
    options = Options(tensor_types=[("attn_qq", "Q8_0")])
    facts = ModelFacts("brandnew", 4)
    said = warnings(facts, choose(facts, SMALL, "Q4_0", options=options), "Q4_0", options=options)
    assert any("attn_qq=Q8_0 matches no tensor" in w for w in said)
    assert any("'brandnew'" in w for w in said)


def test_copy_keeps_everything() -> None:
    decisions = choose(FACTS, [("blk.0.attn_v.weight", (256, 256), "IQ1_S")], "COPY")
    assert [d.format for d in decisions] == ["IQ1_S"]
    assert refusals(decisions) == []


def test_the_file_type_of_a_copy() -> None:
    assert copied_file_type(15, []) == 15
    assert copied_file_type(None, []) == 1024
    assert copied_file_type(None, [("b", "Q4_K"), ("a", "F32"), ("c", "Q4_K")]) == 1024 + 15
    # On a tie, the first to get there in a file's order.
    assert copied_file_type(None, [("blk.1.a", "F16"), ("blk.0.a", "BF16")]) == 1024 + 32
    assert copied_file_type(None, [("a", "MXFP4")]) == 1024
    assert copied_file_type(None, [("a", "NVFP4")]) == 1024 + 39


def test_an_imatrix_is_asked_for_where_llama_quantize_asks() -> None:
    decisions = choose(FACTS, SMALL, "IQ2_XXS")
    assert {r.kind for r in refusals(decisions)} == {Obstacle.IMATRIX}
    named = {r.tensor for r in refusals(decisions)}
    assert "token_embd.weight" not in named
    assert "blk.3.ffn_down.weight" in named
    partial = {"blk.3.ffn_down.weight"}
    left = {r.tensor for r in refusals(choose(FACTS, SMALL, "IQ2_XXS", imatrix=partial), imatrix=partial)}
    assert left == named - partial
    assert refusals(choose(FACTS, SMALL, "IQ2_XXS", imatrix=True), imatrix=True) == []
    # Q2_K asks for one as part of Q2_K_S alone.
    assert refusals(choose(FACTS, SMALL, "Q2_K")) == []
    assert refusals(choose(FACTS, SMALL, "Q2_K_S"))


def test_sources_that_lose_or_cannot_be_converted_are_refused() -> None:
    quantized = choose(FACTS, [("blk.0.attn_v.weight", (256, 256), "Q8_0")], "Q4_K_M")
    assert [r.kind for r in refusals(quantized)] == [Obstacle.REQUANTIZE]
    assert refusals(quantized, options=Options(allow_requantize=True)) == []
    assert refusals(choose(FACTS, [("blk.0.attn_v.weight", (256, 256), "Q8_0")], "Q8_0")) == []
    integers = choose(FACTS, [("blk.0.attn_v.weight", (256, 256), "I32")], "Q4_K_M")
    assert [r.kind for r in refusals(integers, options=Options(allow_requantize=True))] == [Obstacle.SOURCE]


def test_no_fallback_names_every_tensor_that_would_fall_back() -> None:
    options = Options(no_fallback=True)
    found = refusals(choose(FACTS, SMALL, "Q4_K_M", options=options), options=options)
    assert [(r.kind, r.tensor) for r in found] == [(Obstacle.FALLBACK, "blk.0.ffn_up.weight")]


def test_formats_without_a_stand_in_are_errors() -> None:
    with pytest.raises(PolicyError, match="Q1_0 has no stand-in"):
        choose(FACTS, SMALL, "Q1_0")


def test_expert_tensors_outside_the_layers_are_errors() -> None:
    facts = ModelFacts("qwen3moe", 2, (8,) * 2, (8,) * 2, n_expert=16)
    for name in ("mtp.ffn_down.weight", "blk.2.ffn_up.weight"):
        with pytest.raises(PolicyError, match=name):
            choose(facts, [(name, (256, 256), "F32")], "Q8_0")
    # Variants of one and two bits count instead of reading names.
    assert choose(facts, [("mtp.ffn_down.weight", (256, 256), "F32")], "IQ2_XS")[0].format == "IQ2_XS"


def test_twice_the_same_name_is_an_error() -> None:
    with pytest.raises(PolicyError, match="appears twice"):
        choose(FACTS, [SMALL[0], SMALL[0]], "Q8_0")


@pytest.mark.parametrize(
    ("metadata", "is_70b"),
    [
        ({"llama.attention.head_count": 64, "llama.attention.head_count_kv": 8}, True),
        ({"llama.attention.head_count": 64, "llama.attention.head_count_kv": 64}, False),
        (
            {"llama.attention.head_count": 64, "llama.attention.head_count_kv": 8, "llama.expert_count": 8},
            False,
        ),
        ({"llama.attention.head_count": 64, "llama.nextn_predict_layers": 1}, False),
    ],
)
def test_the_70b_size_is_told_by_layers_and_heads(metadata: dict[str, int], is_70b: bool) -> None:
    facts = ModelFacts.from_metadata({"general.architecture": "llama", "llama.block_count": 80, **metadata})
    assert facts.is_70b is is_70b


def test_facts_read_arrays_and_wrapped_values_and_do_without() -> None:
    class Wrapped:
        def __init__(self, value: object) -> None:
            self.value = value

    facts = ModelFacts.from_metadata(
        {
            "general.architecture": Wrapped("deci"),
            "deci.block_count": Wrapped(3),
            "deci.attention.head_count": Wrapped([0, 8, 8]),
            "deci.attention.head_count_kv": Wrapped([0, 2, 2]),
        }
    )
    assert (facts.n_layer, facts.n_head_kv, facts.gqa) == (3, (0, 2, 2), 0)
    guessed = ModelFacts.from_metadata({"general.architecture": "new"}, ["blk.7.attn_v.weight", "output.weight"])
    assert (guessed.n_layer, guessed.gqa) == (8, 0)


def test_order_is_by_layer_then_by_bytes() -> None:
    names = ["blk.10.a", "blk.2.b", "blk.2.B", "output.weight", "token_embd.weight", "blk.2.é", "v.blk.0.x"]
    assert sorted(names, key=order_key) == [
        "output.weight", "token_embd.weight", "v.blk.0.x", "blk.2.B", "blk.2.b", "blk.2.é", "blk.10.a",
    ]  # fmt: skip


def test_categories() -> None:
    assert categorize("blk.0.attn_kv_b.weight") is Category.ATTN_KV_B
    assert categorize("blk.0.attn_v_b.weight") is Category.OTHER
    assert categorize("blk.0.ffn_gate_up_exps.weight") is Category.FFN_GATE
    assert categorize("blk.0.attn_output.weight") is Category.ATTN_OUTPUT
    assert categorize("xoutput.weight") is Category.OTHER


def test_pruning_renumbers_layers_and_keeps_the_name_for_the_imatrix() -> None:
    pruned = prune([name for name, *_ in SMALL], [1, 2])
    assert pruned.block_count == 2
    decisions = choose(FACTS, SMALL, "Q4_K_M", options=Options(prune_layers=[2, 1]))
    assert {(d.source, d.name) for d in decisions if "attn_v" in d.name} == {
        ("blk.0.attn_v.weight", "blk.0.attn_v.weight"),
        ("blk.3.attn_v.weight", "blk.1.attn_v.weight"),
    }
    assert prune(["blk.0.x"], []).block_count is None


@pytest.mark.parametrize("name", ["Q8_K", "Q8_1", "I32", "F64", "Q9_0"])
def test_formats_that_files_do_not_store_are_refused(name: str) -> None:
    with pytest.raises(OverrideError):
        Options(output_tensor_type=name)


names = st.one_of(
    st.builds(
        lambda layer, kind, tail: f"blk.{layer}.{kind}{tail}",
        st.integers(0, 90),
        st.sampled_from(
            [
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_qkv",
                "attn_output",
                "ffn_up",
                "ffn_down_exps",
                "ffn_gate",
                "x",
            ]
        ),
        st.sampled_from([".weight", ".bias", "_norm.weight"]),
    ),
    st.sampled_from(["token_embd.weight", "output.weight", "per_layer_token_embd.weight", "abcde"]),
    st.text(string.printable, max_size=20),
)
shapes = st.lists(st.sampled_from([1, 2, 3, 31, 32, 100, 128, 256, 512]), min_size=1, max_size=4).map(tuple)
dtypes = st.sampled_from(["F32", "F16", "BF16", "Q8_0", "Q4_K", "I32"])
models = st.lists(st.tuples(names, shapes, dtypes), max_size=12, unique_by=lambda t: t[0])
option_sets = st.builds(
    Options,
    output_tensor_type=st.sampled_from([None, None, "Q8_0", "F16", "IQ3_S"]),
    token_embedding_type=st.sampled_from([None, None, "Q8_0", "F32"]),
    tensor_types=st.lists(st.sampled_from([("attn_.", "Q6_K"), (".*", "IQ4_XS"), ("ffn", "F16")]), max_size=2),
    leave_output_tensor=st.booleans(),
    pure=st.booleans(),
    prune_layers=st.lists(st.integers(0, 5), max_size=2),
    keep_split=st.booleans(),
)
fact_sets = st.builds(
    lambda arch, layers, heads, kv, experts: ModelFacts(arch, layers, (heads,) * layers, (kv,) * layers, experts),
    st.sampled_from(["llama", "falcon", "glm5-next", "bailingmoe3", "clip", "never heard of"]),
    st.integers(0, 100),
    st.integers(0, 64),
    st.integers(0, 64),
    st.sampled_from([0, 1, 4, 8, 64]),
)


@settings(max_examples=300, deadline=None)
@given(models, fact_sets, st.sampled_from(list(VARIANTS)), st.booleans(), option_sets)
def test_every_model_gets_formats_that_fit_or_one_clear_error(
    tensors: list[tuple[str, tuple[int, ...], str]],
    facts: ModelFacts,
    variant: str,
    imatrix: bool,
    options: Options,
) -> None:
    try:
        decisions = choose(facts, tensors, variant, imatrix=imatrix, options=options)
    except PolicyError as e:
        assert "tensor" in str(e) or "--prune-layers" in str(e)
        return
    assert len(decisions) <= len(tensors)
    for d in decisions:
        assert d.why
        if d.quantizable:
            assert d.shape[-1] % FORMATS[d.format].block_len == 0
            assert tensor_bytes(d.shape, d.format) > 0
            assert (d.fallback is None) == (d.format == d.wanted)
        else:
            assert d.format == d.dtype
    refusals(decisions, imatrix=imatrix, options=options)
    warnings(facts, decisions, variant, options=options)
    again = choose(facts, tensors, variant, imatrix=imatrix, options=options)
    assert again == decisions


@settings(max_examples=100, deadline=None)
@given(st.permutations(SMALL), st.sampled_from(sorted((set(VARIANTS) | set(ALIASES)) - {"Q1_0"})))
def test_the_order_of_the_input_does_not_matter(shuffled: list[tuple[str, tuple[int, ...], str]], variant: str) -> None:
    assert choose(FACTS, shuffled, variant) == choose(FACTS, SMALL, variant)
