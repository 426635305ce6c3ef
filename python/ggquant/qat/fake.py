"""A weight that forward sees quantized and backward as it is: the straight-through estimator on real blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ggquant import _native
from ggquant.errors import NonFiniteError, UsageError
from ggquant.qat.control import Control
from ggquant.qat.grids import AnyGrid, any_grid
from ggquant.qat.kept import Grid
from ggquant.qat.learned import Learned, LearnedScales, unit_gains, with_gains
from ggquant.qat.mapping import Piece
from ggquant.qat.vectors import VectorGrid
from ggquant.registry import format_info

Blocks = npt.NDArray[np.uint8]

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_INTEGERS = {4: torch.int32, 2: torch.int16}
_LONG = 8

#: Sums that a weight's content is told by, with those of its learned scales.
Fingerprint = tuple[int, ...]


class FakeQuantized(torch.nn.Module):
    """The parametrization of one parameter: `weight -> dequantize(quantize(weight))`, gradient straight through.

    The result is kept until the weight changes, so that tied modules, gradient accumulation and repeated reads cost
    one encoding an update.
    """

    def __init__(self, name: str, pieces: list[Piece], control: Control) -> None:
        super().__init__()
        self.name = name
        self.pieces = pieces
        self.control = control
        #: Factors of the scales of each piece's blocks, where scales are learned.
        self.gains = torch.nn.ParameterList(unit_gains(piece) for piece in pieces if control.learn_scales)
        #: Weight updates seen in training.
        self.updates = 0
        self._blocks: list[Blocks] | None = None  # of the last forward
        self._kept: list[Blocks] | None = None  # of the last search: where scales are kept from
        self._grids: list[AnyGrid] | None = None  # of `_kept`
        self._values: torch.Tensor | None = None
        self._mask: torch.Tensor | None = None
        self._fingerprint: Fingerprint | None = None  # of the weight that `_values` belongs to
        self._mode: tuple[bool, ...] | None = None
        self._counted: Fingerprint | None = None  # of the weight counted last as an update

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight on its format's grid; itself during the warm-up and where quantization is off."""
        if not self.control.enabled:
            return weight
        self._update(weight.detach())
        if self._values is None:
            return weight
        result: torch.Tensor
        if self.gains and not (self.control.scales_frozen or self.control.codes_frozen):
            grids = [grid for grid in self._all_grids(weight.device) if isinstance(grid, Grid)]
            state = Learned(self.pieces, grids, self._values, self._mask)
            result = LearnedScales.apply(state, weight, *self.gains)
        else:
            result = _StraightThrough.apply(weight, self._values, self._mask)
        return result

    # --- what the last forward saw ------------------------------------------------------------------------------

    def blocks(self, weight: torch.Tensor) -> list[Blocks]:
        """The encoded pieces that the last evaluation forward used.

        Raises:
            UsageError: there was none, or the weight has changed since.
        """
        if self._blocks is None or self._mode is None or self._mode[0]:
            raise UsageError(
                f"{self.name}: no evaluation forward has run on these weights; call model.eval(), run the model once, "
                "then export",
                tensor=self.pieces[0].tensor,
            )
        if self._mark(weight.detach()) != self._fingerprint:
            raise UsageError(
                f"{self.name}: the weight has changed since the last evaluation forward; run one again, then export",
                tensor=self.pieces[0].tensor,
            )
        return self._blocks

    def state(self) -> dict[str, Any]:
        """What a bit-exact resumption needs beside the weight: the count of updates, kept and learned scales."""
        kept = None if self._kept is None else [torch.from_numpy(blocks.copy()) for blocks in self._kept]
        gains = [gain.detach().clone() for gain in self.gains]
        return {"updates": self.updates, "counted": self._counted, "kept": kept, "gains": gains}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up a state that `state` gave."""
        kept = state["kept"]
        if kept is not None:
            wanted = [piece.rows * _row_bytes(piece) for piece in self.pieces]
            if [blocks.numel() for blocks in kept] != wanted:
                raise UsageError(f"{self.name}: the saved state is of other formats or another model")
        if [gain.shape for gain in state["gains"]] != [gain.shape for gain in self.gains]:
            raise UsageError(f"{self.name}: scales are learned in one of the saved state and this model, not in both")
        with torch.no_grad():
            for gain, saved in zip(self.gains, state["gains"], strict=True):
                gain.copy_(saved)
        self.updates = int(state["updates"])
        self._counted = state["counted"]
        self._kept = None if kept is None else [blocks.numpy().copy() for blocks in kept]
        self._grids = self._blocks = self._values = self._mask = self._fingerprint = self._mode = None

    def preset(self, piece: Piece, blocks: Blocks) -> None:
        """Takes the scales of given blocks (a calibrated solution) in the place of a search's."""
        if self._kept is None:
            self._kept = [np.empty(0, np.uint8) for _ in self.pieces]
        self._kept[next(i for i, own in enumerate(self.pieces) if own is piece)] = blocks
        self._grids = self._values = None

    # --- keeping up with the weight -----------------------------------------------------------------------------

    @torch._dynamo.disable
    def _update(self, weight: torch.Tensor) -> None:
        control = self.control
        mark = self._mark(weight)
        if control.codes_frozen:
            self._hold(weight, mark)
            return
        if self.training and mark != self._counted:
            self.updates += self._counted is not None
            self._counted = mark
        if self.training and self.updates < control.start_step:
            self._values = self._mask = None
            return
        mode = (self.training, control.scales_frozen, control.clamp_gradient)
        if self._values is not None and mark == self._fingerprint and mode == self._mode:
            return
        if self._keeps_scales():
            self._follow(weight)
        else:
            self._search(weight)
        self._fingerprint, self._mode = mark, mode

    def _mark(self, weight: torch.Tensor) -> Fingerprint:
        mark: Fingerprint = fingerprint(weight)
        for gain in self.gains:
            mark += fingerprint(gain.detach())
        return mark

    def _hold(self, weight: torch.Tensor, mark: Fingerprint) -> None:
        """Codes are frozen: the values stay, whatever the weight does, and the weight must not pretend to learn."""
        if self._blocks is None:
            self._search(weight)
            self._fingerprint = mark
        self._mode = (self.training, True, False)
        if mark != self._fingerprint:
            raise UsageError(
                f"{self.name}: codes are frozen, but the weight has changed; leave it out of the optimizer "
                "(requires_grad_(False)), or thaw the codes with freeze_codes(model, False)",
                tensor=self.pieces[0].tensor,
            )

    def _keeps_scales(self) -> bool:
        """Whether this forward takes codes on the scales of an earlier search."""
        if self._kept is None or not all(blocks.size for blocks in self._kept):
            return False
        if self.control.scales_frozen or self.gains:
            return True
        return self.training and (self.updates - self.control.start_step) % self.control.scale_refresh != 0

    def _search(self, weight: torch.Tensor) -> None:
        """A full search by the native encoders."""
        values = torch.empty_like(weight)
        self._blocks = []
        for piece in self.pieces:
            blocks = _encode(piece, piece.gather(weight), self.name, self.control.threads)
            self._decode(piece, blocks, values)
            self._blocks.append(blocks)
        self._complete(weight, values)
        self._kept, self._grids = self._blocks, None
        self._mask = None
        if self.control.clamp_gradient:
            self._mask = torch.ones_like(weight, dtype=torch.bool)
            for piece, grid in zip(self.pieces, self._all_grids(weight.device), strict=True):
                piece.scatter(grid.inside(piece.gather(weight).float()), self._mask)
        self._values = values

    def _follow(self, weight: torch.Tensor) -> None:
        """Codes on kept scales."""
        assert self._kept is not None
        kept = self._kept
        if self.gains:
            kept = [with_gains(*each) for each in zip(self.pieces, kept, self.gains, strict=True)]
            self._grids = self._make_grids(kept, weight.device)
        values = torch.empty_like(weight)
        mask = torch.ones_like(weight, dtype=torch.bool) if self.control.clamp_gradient else None
        fresh: list[Blocks] = []
        for piece, grid in zip(self.pieces, self._all_grids(weight.device), strict=True):
            rows = piece.gather(weight).float()
            if not self.training or isinstance(grid, VectorGrid):
                _check_finite(piece, rows, self.name)
            if mask is not None:
                piece.scatter(grid.inside(rows), mask)
            if not self.training:
                fresh.append(grid.encoded(rows))
                self._decode(piece, fresh[-1], values)
                continue
            target = piece.gather(values)
            if target.dtype == torch.float32 and target.untyped_storage().data_ptr() == values.data_ptr():
                grid.nearest(rows, target)  # where the rows lie in the parameter as in the file
            else:
                target = torch.empty_like(rows, memory_format=torch.contiguous_format)
                grid.nearest(rows, target)
                piece.scatter(target.to(weight), values)
        self._complete(weight, values)
        self._blocks = None if self.training else fresh
        self._values, self._mask = values, mask

    def _decode(self, piece: Piece, blocks: Blocks, values: torch.Tensor) -> None:
        decoded = _native.decode(piece.format, blocks, piece.columns, self.control.threads)
        piece.scatter(torch.from_numpy(decoded).to(values), values)

    def _complete(self, weight: torch.Tensor, values: torch.Tensor) -> None:
        """What no piece covers stays as it is."""
        if sum(piece.rows * piece.columns for piece in self.pieces) != weight.numel():
            covered = torch.zeros_like(weight, dtype=torch.bool)
            for piece in self.pieces:
                piece.scatter(torch.ones(piece.rows, piece.columns, dtype=torch.bool, device=weight.device), covered)
            values.copy_(torch.where(covered, values, weight))

    def _all_grids(self, device: torch.device) -> list[AnyGrid]:
        if self._grids is None or any(grid.device != device for grid in self._grids):
            assert self._kept is not None
            self._grids = self._make_grids(self._kept, device)
        return self._grids

    def _make_grids(self, encoded: list[Blocks], device: torch.device) -> list[AnyGrid]:
        return [
            any_grid(piece.format, blocks, piece.columns, device, self.control.threads)
            for piece, blocks in zip(self.pieces, encoded, strict=True)
        ]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        ctx.mask = mask
        return values.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return (gradient if ctx.mask is None else gradient * ctx.mask), None, None


@torch._dynamo.disable
def fingerprint(weight: torch.Tensor) -> tuple[int, int]:
    """Tells a changed weight from an unchanged one by its content, since optimizers may write behind autograd's back.

    The sum of all bits, and that of the rows' sums weighted by their number: a changed value moves the first, rows that
    changed places move the second. Integers wrap around.
    """
    size = weight.element_size()
    flat = weight.reshape(weight.shape[0], -1)
    # Eight bytes at a time where rows divide: sums of the widest integers need no conversion.
    whole = flat.shape[1] * size % _LONG == 0
    rows = flat.view(torch.int64 if whole else _INTEGERS[size]).sum(dim=1, dtype=torch.int64)
    return int(rows.sum()), int((rows * torch.arange(1, rows.numel() + 1, device=rows.device)).sum())


def _check_finite(piece: Piece, rows: torch.Tensor, name: str) -> None:
    if not bool(torch.isfinite(rows).all()):
        raise NonFiniteError(f"{name}: a weight is not finite; the training has diverged", tensor=piece.tensor)


def _row_bytes(piece: Piece) -> int:
    size = format_info(piece.format).row_bytes(piece.columns)
    assert size is not None
    return size


def _encode(piece: Piece, rows: torch.Tensor, name: str, threads: int | None) -> Blocks:
    flat = rows.detach().cpu().contiguous().reshape(-1)
    array = flat.numpy() if flat.dtype == torch.float32 else flat.view(torch.int16).numpy().view(np.uint16)
    importance = None if piece.importance is None else np.ascontiguousarray(piece.importance).reshape(-1)
    try:
        return _native.encode(
            piece.format, array, _NAMES[flat.dtype], piece.columns, importance, piece.rows_per_expert, threads
        )
    except NonFiniteError as error:
        raise NonFiniteError(f"{name}: {error}; the training has diverged", tensor=piece.tensor) from None
