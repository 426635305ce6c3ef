"""Quantization-aware training on the real block formats: `pip install ggquant[torch]`.

```python
from ggquant import qat

teacher = copy.deepcopy(model).eval()
qat.prepare(model, "Q3_K_S")
for batch in batches:                                   # any loop, any optimizer
    loss = qat.distillation_loss(model(batch).logits, teacher(batch).logits)
    ...
model.eval(); model(batch)
qat.export_gguf(model, "checkpoint/", "model-Q3_K_S.gguf")
```

Forward computes with the very weights that the file will hold; see `prepare`.
"""

from __future__ import annotations

try:
    import torch as _torch  # the extra: everything here needs it, nothing else in the package does
except ImportError as error:  # pragma: no cover
    raise ImportError("ggquant.qat needs PyTorch: pip install 'ggquant[torch]'") from error

from ggquant.qat.activations import round_activations
from ggquant.qat.distill import distillation_loss
from ggquant.qat.export import export_gguf, quantized_state, restore_quantized_state
from ggquant.qat.prepare import convert, prepare, scale_parameters
from ggquant.qat.start import ptq_then_qat
from ggquant.qat.switches import describe, disabled, freeze_codes, freeze_scales

del _torch

__all__ = [
    "convert",
    "describe",
    "disabled",
    "distillation_loss",
    "export_gguf",
    "freeze_codes",
    "freeze_scales",
    "prepare",
    "ptq_then_qat",
    "quantized_state",
    "restore_quantized_state",
    "round_activations",
    "scale_parameters",
]
