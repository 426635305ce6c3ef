"""A model that can be run, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from ggquant.architectures.registry import graph_of
from ggquant.errors import CheckpointError, ShapeError, UnsupportedError, UsageError
from ggquant.model import Model, SourceTensor
from ggquant.product import Activations as Activations
from ggquant.runtime import ops
from ggquant.runtime.block import GROUP_TOKENS, Block, Norm, Tensors
from ggquant.runtime.hyper import Hyper
from ggquant.runtime.linear import Arithmetic, ExpertStack, Hook, Linear, Weight
from ggquant.runtime.ops import Floats
from ggquant.runtime.side_by_side import side_by_side
from ggquant.runtime.weights import as_float32, read_rows, read_tensor
from ggquant.sources import load_model

if TYPE_CHECKING:
    import os

T = TypeVar("T")
R = TypeVar("R")


def open_model(
    path: str | os.PathLike[str],
    *,
    activations: Activations = "float32",
    threads: int | None = None,
    pre: str | None = None,
) -> RunnableModel:
    """Opens a model to be run. Only headers are read.

    Args:
        path: a Hugging Face folder, or a GGUF file of any format.
        activations: "float32", or "int8" to quantize activations as ggml does for each weight's format.
        threads: number of threads, by default one per core. It does not change the results.
        pre: name of the pre-tokenizer, instead of the one found from the tokenizer. Only for checkpoints.

    Raises:
        FileError, CheckpointError, MalformedFileError: as for `ggquant.convert`.
        UnsupportedError: an architecture that cannot be run.
        UsageError: an argument that cannot be right.
    """
    if activations not in get_args(Activations):
        raise UsageError(f"activations are float32 or int8, not {activations!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    return RunnableModel(load_model(path, pre=pre), str(path), Arithmetic(activations, threads))


class RunnableModel:
    """The forward pass of a model, whose weights are read when they are needed.

    Attributes:
        path: what was opened.
        source: its metadata and tensors.
        arch: name of the architecture in GGUF.
        metadata: the model's metadata, plain values.
        n_layer: number of layers.
        n_vocab: number of tokens in the vocabulary, rows of the embedding.
        hidden_size: width of the residual stream.
        causal: whether tokens see only what is before them; an encoder's do not.
        threads: number of threads, None for one per core.
    """

    def __init__(self, source: Model, path: str, how: Arithmetic) -> None:
        self.source = source
        self.path = path
        self.arch = source.arch
        self.graph = graph_of(source.arch, path)
        self.metadata = {key: entry.value for key, entry in source.metadata.items()}
        self.hyper = Hyper(self.arch, {**source.metadata, **source.beyond_gguf}, self.graph, path)
        self.n_layer = self.hyper.n_layer
        self.hidden_size = self.hyper.hidden_size
        self.causal = bool(self.hyper.get("attention.causal", self.graph.causal))
        self.threads = how.threads
        self._how = how
        self._tensors = {tensor.name: tensor for tensor in source.tensors}
        self.n_vocab = self.tensor("token_embd.weight").shape[0]

    def tensor(self, name: str) -> SourceTensor:
        """Where a tensor is, by its GGUF name.

        Raises:
            CheckpointError: the model has none of that name.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.path}: the model has no tensor '{name}'", file=self.path, tensor=name)
        return tensor

    def block_tensors(self, layer: int) -> list[SourceTensor]:
        """The tensors of a layer."""
        prefix = f"blk.{layer}."
        return [tensor for name, tensor in self._tensors.items() if name.startswith(prefix)]

    def embed(self, tokens: npt.ArrayLike) -> Floats:
        """The hidden states before the first layer.

        Args:
            tokens: token ids [n_chunks, n_ctx], or [n_ctx] for one chunk.

        Returns:
            [n_chunks, n_ctx, hidden], float32.

        Raises:
            ShapeError: a token outside of the vocabulary, or more tokens in a chunk than there are positions.
        """
        ids = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
        if ids.ndim != 2:
            raise ShapeError(f"tokens of shape {ids.shape}: need [n_chunks, n_ctx]")
        bad = ids[(ids < 0) | (ids >= self.n_vocab)]
        if bad.size:
            raise ShapeError(
                f"{self.path}: token {bad[0]} is outside of the model's vocabulary of {self.n_vocab}; "
                "the tokenizer is another model's",
                file=self.path,
            )
        h = read_rows(self.tensor("token_embd.weight"), ids.reshape(-1)).reshape(*ids.shape, self.hidden_size)
        scale = self.hyper.number("embedding_scale", 0.0)
        if self.graph.scale_embedding:
            scale = float(np.sqrt(np.float32(self.hidden_size)))
        if scale:
            h *= np.float32(scale)
        if "token_types.weight" in self._tensors:
            h += self._vector("token_types.weight")[0]
        if "position_embd.weight" in self._tensors:
            positions = self._vector("position_embd.weight")
            if ids.shape[1] > len(positions):
                raise ShapeError(
                    f"{self.path}: chunks of {ids.shape[1]} tokens, but the model has {len(positions)} positions",
                    file=self.path,
                )
            h += positions[: ids.shape[1]]
        norm = self._norm("token_embd_norm")
        return norm(h) if norm else h

    def block(self, il: int, weights: Mapping[str, Weight] | None = None) -> Block:
        """Layer `il` with its weights in memory, until the result is dropped.

        Args:
            il: number of the layer.
            weights: replacements by GGUF tensor name: arrays, or `QuantizedTensor`s, of the tensor's shape.

        Raises:
            CheckpointError: a tensor of the layer is missing.
            ShapeError: a replacement of another shape.
        """
        if not 0 <= il < self.n_layer:
            raise UsageError(f"{self.path}: there is no layer {il}; it has {self.n_layer}")
        return Block(il, self.hyper, _LayerTensors(self, f"blk.{il}.", weights or {}, self._how), self._how)

    def layer_tensors(self, il: int) -> Tensors:
        """The tensors of layer `il` by their names without the layer's prefix."""
        return _LayerTensors(self, f"blk.{il}.", {}, self._how)

    def side_by_side(self, work: Callable[[T], R], items: Iterable[T], done: Callable[[R], object]) -> None:
        """Calls `done(work(item))` for every item in order; work with this model goes ahead on other threads."""
        side_by_side(work, items, done, threads=self.threads, halt=self._how.halt)

    def through(self, block: Block, h: Floats, out: Floats | None = None) -> Floats:
        """All chunks through a layer, as `block(h, out=out)` has it, several groups of them at a time.

        Args:
            block: the layer, of this model.
            h: [n_chunks, n_ctx, hidden], float32.
            out: where the result goes, possibly `h` itself; a new array by default.
        """
        made = np.empty(h.shape, np.float32) if out is None else out
        step = max(1, GROUP_TOKENS // h.shape[1])

        def run(start: int) -> None:
            block(h[start : start + step], out=made[start : start + step])

        self.side_by_side(run, range(0, len(h), step), lambda _: None)
        return made

    def weight(self, name: str) -> Weight:
        """A whole weight as it is stored, by its GGUF name."""
        return read_tensor(self.tensor(name))

    def logits(self, h: Floats, hook: Hook | None = None) -> Floats:
        """What the model says about the next token, from the hidden states after the last layer.

        Args:
            h: [n_chunks, n_ctx, hidden], or any other leading axes. Memory grows with its rows: give a chunk at a time.
            hook: gets the input of the output matrix: `output.weight`, or `token_embd.weight` where they are the same.

        Returns:
            [n_chunks, n_ctx, n_vocab], float32.

        Raises:
            UnsupportedError: the model is an encoder.
        """
        if self._output is None:
            raise UnsupportedError(f"{self.path}: {self.arch} models make embeddings, no logits", file=self.path)
        x = self.normalized(h).reshape(-1, self.hidden_size)
        logits = self._output(x, hook)
        scale = self.hyper.optional("logit_scale")
        if scale is not None:
            logits /= np.float32(scale)
        cap = self.hyper.optional("final_logit_softcapping")
        if cap is not None:
            ops.soft_cap_in_place(logits, cap, self.threads)
        return logits.reshape(*h.shape[:-1], self._output.rows)

    def normalized(self, h: Floats) -> Floats:
        """Hidden states after the last norm: what the output matrix gets, or an encoder's embeddings of the tokens."""
        norm = self._output_norm
        return norm(np.ascontiguousarray(h)) if norm else np.asarray(h)

    def forward(self, tokens: npt.ArrayLike, hook: Hook | None = None) -> Floats:
        """All layers, one after another, with one layer's weights in memory at a time.

        Args:
            tokens: token ids [n_chunks, n_ctx].
            hook: gets the input of every weight matrix of the layers, see `Hook`.

        Returns:
            Hidden states after the last layer, for `logits`.
        """
        h = self.embed(tokens)
        for il in range(self.n_layer):
            self.block(il)(h, hook, out=h)
        return h

    @property
    def output_name(self) -> str:
        """GGUF name of the output matrix."""
        return "output.weight" if "output.weight" in self._tensors else "token_embd.weight"

    @cached_property
    def _output(self) -> Linear | None:
        if not self.causal:
            return None
        weight = read_tensor(self.tensor(self.output_name))
        bias = self._vector("output.bias") if "output.bias" in self._tensors else None
        return Linear(self.output_name, weight, bias, self._how)

    @cached_property
    def _output_norm(self) -> Norm | None:
        return self._norm("output_norm")

    def _vector(self, name: str) -> Floats:
        return as_float32(read_tensor(self.tensor(name)))

    def _norm(self, name: str) -> Norm | None:
        if f"{name}.weight" not in self._tensors:
            return None
        bias = self._vector(f"{name}.bias") if f"{name}.bias" in self._tensors else None
        return Norm(self._vector(f"{name}.weight"), bias, self.graph, self.hyper.eps, self.threads)


class _LayerTensors:
    """A layer's tensors by their names without prefix, with replacements taking the place of what is stored."""

    def __init__(self, model: RunnableModel, prefix: str, replacements: Mapping[str, Weight], how: Arithmetic) -> None:
        self._model, self._prefix, self._replacements, self._how = model, prefix, replacements, how

    def has(self, name: str) -> bool:
        return self._prefix + name in self._model._tensors

    def linear(self, name: str) -> Linear:
        return Linear(self._full(name), self._weight(name), self.vector(f"{name}.bias"), self._how)

    def maybe_linear(self, name: str) -> Linear | None:
        return self.linear(name) if self.has(f"{name}.weight") else None

    def stack(self, name: str) -> ExpertStack:
        return ExpertStack(self._full(name), self._weight(name), self.vector(f"{name}.bias"), self._how)

    def vector(self, name: str) -> Floats | None:
        """A small tensor as float32: of this layer, or of the whole model where layers share it."""
        full = self._prefix + name if self.has(name) else name
        if full in self._replacements:
            return as_float32(self._replacements[full])
        return self._model._vector(full) if full in self._model._tensors else None

    def _full(self, name: str) -> str:
        return f"{self._prefix}{name}.weight"

    def _weight(self, name: str) -> Weight:
        full = self._full(name)
        stored = self._model.tensor(full)
        given = self._replacements.get(full)
        if given is None:
            return read_tensor(stored)
        if tuple(given.shape) != stored.shape:
            raise ShapeError(f"the replacement of '{full}' has shape {given.shape}, not {stored.shape}", tensor=full)
        return given
