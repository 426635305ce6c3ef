"""What is not finite, by the name of its file and tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggquant.errors import NonFiniteError
from ggquant.runtime.model import RunnableModel
from ggquant.runtime.weights import as_float32, read_tensor

Floats = npt.NDArray[np.float32]


def finite_weight(model: RunnableModel, name: str) -> Floats:
    """A weight as float32.

    Raises:
        NonFiniteError: a value of it is NaN or infinite.
    """
    tensor = model.tensor(name)
    values = as_float32(read_tensor(tensor))
    if not np.isfinite(values).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        file = next((view.file for view in tensor.views if view.file), model.path)
        raise NonFiniteError(
            f"{file}: tensor '{name}': {values[place]} at {list(place)}; the file is damaged, download it again",
            file=file,
            tensor=name,
        )
    return values


def name_weight(model: RunnableModel) -> None:
    """Finds the weight at fault where something else turned out not to be finite: mostly there is one.

    Raises:
        NonFiniteError: of the first weight that is not finite.
    """
    for tensor in model.source.tensors:
        finite_weight(model, tensor.name)


def check_states(model: RunnableModel, h: Floats, layer: int) -> None:
    """Refuses hidden states that are not finite.

    Args:
        model: the model.
        h: hidden states [n_chunks, n_ctx, hidden].
        layer: the layer that they come from.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    if not np.isfinite(h).all():
        raise NonFiniteError(
            f"{model.path}: what layer {layer} puts out is not finite on the calibration text: "
            "the model overflows in float32",
            file=model.path,
        )
