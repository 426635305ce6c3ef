"""The values that encoded weights can take while their scales stay, whatever the format."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from ggquant.qat.kept import Grid, grid_of, has_codes
from ggquant.qat.vectors import VectorGrid, vector_grid

AnyGrid: TypeAlias = Grid | VectorGrid


def any_grid(
    format: str, blocks: npt.NDArray[np.uint8], columns: int, device: torch.device, threads: int | None = None
) -> AnyGrid:
    """The grid of encoded rows of `columns` weights; `threads` are those of native searches."""
    if has_codes(format):
        return grid_of(format, blocks, columns, device)
    return vector_grid(format, blocks, columns, device, threads)
