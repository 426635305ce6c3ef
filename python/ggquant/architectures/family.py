"""What one model family declares: names, transforms, metadata, tokenizer. All data, no control flow.

A family is one file with one `Family`, and one line in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ggquant.architectures.config import Config
from ggquant.architectures.graph import Graph
from ggquant.architectures.lazy import LazyTensor
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict, SourceTensor

Step = Callable[[LazyTensor, Config], LazyTensor]
"""One move of the view algebra, or one elementwise operation; sizes come from the configuration."""

Entry = Callable[[Config], Iterable[tuple[str, MetaValue]]]
"""Metadata of one concern; keys lack the architecture's prefix, or begin with `/` where they have none."""

Dims = Mapping[str, Callable[[Config], int]]
"""Sizes that tensor shapes are written in: E hidden, F feed-forward, V vocabulary, Q and K projections."""


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor made from a rule's sources: its GGUF name and the steps applied to each source first."""

    name: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """From tensors of the checkpoint to tensors of the model.

    Attributes:
        sources: names with `{bid}` for the layer and `{xid}` for the expert.
        outputs: what each becomes.
        combine: "single" source; "stack" all experts along a new leading axis; "concat" sources along the
            first axis; "mxfp4" packs codes and scales into blocks.
        shape: expected shape in the family's dims, such as "Q E"; `*` is any size; empty is not checked.
        required: the conversion fails where a source is missing.
        unless: another checkpoint name that, where it is there, stands for this rule's sources.
        group: rules of one group are written together, once the last source of the layer's group has come.
    """

    sources: tuple[str, ...]
    outputs: tuple[Output, ...]
    combine: Literal["single", "stack", "concat", "mxfp4"] = "single"
    shape: str = ""
    required: bool = True
    unless: str = ""
    group: str = ""


def _always(config: Config) -> bool:
    return True


def _none(config: Config) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Rename:
    """A regular expression and its replacement for checkpoint names, where `when` holds."""

    pattern: str
    replacement: str
    when: Callable[[Config], bool] = _always


@dataclass(frozen=True, slots=True)
class Family:
    """A model family.

    Attributes:
        name: llama.cpp's name of the architecture, the prefix of its metadata keys.
        architectures: class names in config.json that this family converts.
        rules: tensors, see `Rule`.
        metadata: entries in the order in which they are written.
        vocabulary: kinds of tokenizer in the order they are looked for, see `ggquant.tokenizers`.
        defaults: hyperparameters that transformers assumes where config.json is silent.
        prepare: completes the hyperparameters, after `defaults`.
        tokenizer_extra: entries written after the tokenizer's.
        tokenizer_first: entries written before the tokenizer's.
        early: entries written before everything but the architecture's name.
        extra_tensors: computed tensors, written first.
        renames: applied to checkpoint names, in order, before the rules.
        ignore: regular expressions of checkpoint tensors that the model does not need.
        dims: sizes for the rules' shapes.
        packed: `quant_method`s in config.json whose weights the rules can take as they are.
        graph: the forward pass.
        beyond_gguf: facts for the forward pass that GGUF does not store, see `ggquant.architectures.beyond_gguf`.
        contradictions: sentences on what this model's hyperparameters ask for and llama.cpp, which knows the family's
            GGUF files only, does otherwise; none for most models. A conversion warns, a training is refused.
    """

    name: str
    architectures: tuple[str, ...]
    rules: tuple[Rule, ...]
    metadata: tuple[Entry, ...]
    vocabulary: tuple[str, ...]
    dims: Dims
    defaults: Mapping[str, Any] = field(default_factory=dict)
    prepare: tuple[Callable[[Config], None], ...] = ()
    tokenizer_first: tuple[Entry, ...] = ()
    tokenizer_extra: tuple[Entry, ...] = ()
    early: tuple[Entry, ...] = ()
    extra_tensors: tuple[Callable[[Config], Iterable[SourceTensor]], ...] = ()
    renames: tuple[Rename, ...] = ()
    ignore: tuple[str, ...] = ()
    packed: tuple[str, ...] = ()
    graph: Graph = field(default_factory=Graph)
    beyond_gguf: tuple[Entry, ...] = ()
    contradictions: Callable[[Config], Iterable[str]] = _none


def module(
    source: str,
    target: str,
    *steps: Step,
    shape: str = "",
    bias_steps: tuple[Step, ...] | None = None,
    required: bool = True,
) -> tuple[Rule, Rule]:
    """The rules of a layer's `.weight` and of its `.bias`, which may be absent.

    The bias has the weight's rows, and the weight's steps unless `bias_steps` says otherwise.
    """
    bias_shape = shape.split(" ")[0] if bias_steps is None else "*"
    bias_steps = steps if bias_steps is None else bias_steps
    return (
        Rule((f"{source}.weight",), (Output(f"{target}.weight", steps),), shape=shape, required=required),
        Rule((f"{source}.bias",), (Output(f"{target}.bias", bias_steps),), shape=bias_shape, required=False),
    )


def experts(source: str, target: str, *steps: Step, shape: str = "", unless: str = "") -> Rule:
    """One weight of every expert (`{xid}` in `source`), stacked into one tensor."""
    outputs = (Output(f"{target}.weight", steps),)
    return Rule((f"{source}.weight",), outputs, "stack", shape, unless=unless, group="experts")


def write(entries: Iterable[Entry], config: Config, arch: str, into: MetaDict) -> None:
    """Runs metadata entries, with the architecture's prefix on keys that are not absolute."""
    for entry in entries:
        for key, value in entry(config):
            into[key[1:] if key.startswith("/") else f"{arch}.{key}"] = value
