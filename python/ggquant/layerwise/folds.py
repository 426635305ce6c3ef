"""Where scales of columns can be taken up by what makes the columns' input, tensor by tensor."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.architectures.graph import PASSED, Fold
from ggquant.runtime import RunnableModel


@dataclass(frozen=True)
class Place:
    """Matrices that share an input, and what can take up the reciprocals of their columns' scales.

    Attributes:
        layer: number of the layer; `n_layer` for the output matrix.
        readers: GGUF names, the one whose input is to be looked at first.
        maker: GGUF name of the norm's weight, or of the matrix.
        bias: that of the maker, which is scaled as well; empty where there is none.
        first_row: the maker's first row that is an input of the readers.
        channel_of: the scale of each column: columns with the same number share one.
        experts: number of experts with scales of their own; 0 where there is one set for all.
        reason: why it cannot be done; empty where it can.
    """

    layer: int
    readers: tuple[str, ...]
    maker: str = ""
    bias: str = ""
    first_row: int = 0
    channel_of: npt.NDArray[np.int64] | None = None
    experts: int = 0
    reason: str = ""

    @property
    def channels(self) -> int:
        """How many scales there are, of one expert."""
        return 0 if self.channel_of is None else int(self.channel_of.max()) + 1


class _ImpossibleError(Exception):
    """Why scales cannot be taken up."""


def places(model: RunnableModel, quantized: Container[str], changeable: Container[str]) -> list[Place]:
    """The places of a model where columns of quantized weights could be scaled, possible or not.

    Args:
        model: as it is run.
        quantized: names of the weights that will be quantized.
        changeable: names of other tensors that can be stored with new values.
    """
    known = {tensor.name for tensor in model.source.tensors}
    found = []
    for layer in range(model.n_layer):
        for fold in model.graph.folds:
            readers = tuple(name for role in fold.readers if (name := f"blk.{layer}.{role}.weight") in known)
            if any(name in quantized for name in readers):
                found.append(_checked(model, layer, readers, fold, known, quantized, changeable))
    if model.causal and model.output_name in quantized:
        found.append(_output(model, known, changeable))
    return found


def _checked(
    model: RunnableModel,
    layer: int,
    readers: tuple[str, ...],
    fold: Fold,
    known: Container[str],
    quantized: Container[str],
    changeable: Container[str],
) -> Place:
    try:
        for name in readers:
            if name not in quantized and name not in changeable:
                raise _ImpossibleError(f"{name} shares the input and keeps its stored values")
        if fold.through == "nothing":
            return _behind_norm(model, layer, readers, fold, known, changeable)
        return _behind_matrix(model, layer, readers, fold, known, quantized, changeable)
    except _ImpossibleError as error:
        return Place(layer, readers, reason=str(error))


def _behind_norm(
    model: RunnableModel,
    layer: int,
    readers: tuple[str, ...],
    fold: Fold,
    known: Container[str],
    changeable: Container[str],
) -> Place:
    half = model.graph.attention if fold.makers == ("attention",) else model.graph.feed_forward
    maker = f"blk.{layer}.{half.norm}.weight"
    if not half.norm or maker not in known:
        raise _ImpossibleError("the input is the residual stream, which all layers share")
    return _vector(Place(layer, readers), model, maker, known, changeable)


def _behind_matrix(
    model: RunnableModel,
    layer: int,
    readers: tuple[str, ...],
    fold: Fold,
    known: Container[str],
    quantized: Container[str],
    changeable: Container[str],
) -> Place:
    maker = next((name for role in fold.makers if (name := f"blk.{layer}.{role}.weight") in known), "")
    if not maker:
        raise _ImpossibleError(f"the layer has none of {', '.join(fold.makers)}")
    if maker not in quantized and maker not in changeable:
        raise _ImpossibleError(f"{maker} keeps its stored values")
    bias = maker.removesuffix("weight") + "bias"
    if bias in known and bias not in changeable:
        raise _ImpossibleError(f"{bias} keeps its stored values")
    columns, rows = model.tensor(readers[0]).shape[-1], model.tensor(maker).shape[-2]
    stack = model.tensor(readers[0]).shape
    if fold.through == "heads":
        channel_of = _channels_of_heads(model, layer, columns)
    else:
        activation = str(model.hyper.get("activation", model.graph.activation))
        gated = len(stack) == 3 or rows == 2 * columns or maker.replace("ffn_up", "ffn_gate") in known
        if not PASSED.get(activation, (False, False))[0 if gated else 1]:
            raise _ImpossibleError(f"factors of {maker} do not pass {activation}{'' if gated else ' without a gate'}")
        channel_of = np.arange(columns)
    first = rows - int(channel_of.max()) - 1
    fused = maker.endswith(".attn_qkv.weight") or (fold.through == "gate" and first == columns)
    if first < 0 or (first and not fused):
        raise _ImpossibleError(f"{maker} has {rows} outputs, which do not go with {columns} columns")
    return Place(
        layer,
        readers,
        maker,
        bias if bias in known else "",
        first,
        channel_of,
        experts=stack[0] if len(stack) == 3 else 0,
    )


def _channels_of_heads(model: RunnableModel, layer: int, columns: int) -> npt.NDArray[np.int64]:
    """The channel of values that each input of the attention's output is made of."""
    heads, shared, width = model.hyper.heads(layer), model.hyper.kv_heads(layer), model.hyper.value_dim(layer)
    if columns != heads * width or heads % shared:
        raise _ImpossibleError(f"{columns} columns are not {heads} heads of {width} over {shared} of values")
    head = np.arange(heads) // (heads // shared)
    return (head[:, None] * width + np.arange(width)).reshape(-1)


def _output(model: RunnableModel, known: Container[str], changeable: Container[str]) -> Place:
    place = Place(model.n_layer, (model.output_name,))
    try:
        if model.output_name == "token_embd.weight":
            raise _ImpossibleError("it is the token embedding as well, whose values the first layer reads")
        if "output_norm.weight" not in known:
            raise _ImpossibleError("there is no norm before it")
        return _vector(place, model, "output_norm.weight", known, changeable)
    except _ImpossibleError as error:
        return Place(place.layer, place.readers, reason=str(error))


def _vector(place: Place, model: RunnableModel, maker: str, known: Container[str], changeable: Container[str]) -> Place:
    """The place with a norm as its maker."""
    bias = maker.removesuffix("weight") + "bias"
    for name in (maker, bias):
        if name in known and name not in changeable:
            raise _ImpossibleError(f"{name} keeps its stored values")
    channel_of = np.arange(model.tensor(maker).shape[-1])
    return Place(place.layer, place.readers, maker, bias if bias in known else "", 0, channel_of)
