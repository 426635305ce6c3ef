"""What all fake-quantized weights of a model share: options, and switches that the user turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ggquant.qat.mapping import Layout


@dataclass(eq=False)
class Control:
    """Options of `prepare` and switches.

    Attributes:
        layout: the GGUF tensors and their formats.
        start_step: weight updates before quantization begins.
        scale_refresh: weight updates between two searches for scales; between them codes follow the kept scales.
        clamp_gradient: no gradient for weights beyond their sub-block's range.
        threads: number of threads of the encoders.
        learn_scales: whether scales stay those of the first search, times gains that are trained.
        enabled: whether quantization is on at all, see `disabled`.
        scales_frozen: whether scales are kept for good, see `freeze_scales`.
        codes_frozen: whether codes are kept for good, see `freeze_codes`.
        handles: hooks that `convert` takes off again.
    """

    layout: Layout
    start_step: int
    scale_refresh: int
    clamp_gradient: bool
    threads: int | None
    learn_scales: bool = False
    enabled: bool = True
    scales_frozen: bool = False
    codes_frozen: bool = False
    handles: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Quantization is off within the `with` block."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before
