"""Quantize language models on a CPU: GGUF with the bytes of llama.cpp, fast, without torch.

```python
import ggquant as gg

q = gg.quantize(w, "Q4_K")                                  # an array into blocks
w2 = q.dequantize()                                         # and back
y = x @ q.T                                                 # a product with the blocks as they are
report = gg.convert("checkpoint/", "out.gguf", "Q4_K_M")    # a whole model
model = gg.open("out.gguf")                                 # look at it
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggquant._native import __version__, isa
from ggquant.errors import (
    CheckpointError,
    DTypeError,
    Error,
    FileError,
    ImatrixError,
    InternalError,
    InvalidBlockError,
    MalformedFileError,
    NonFiniteError,
    ShapeError,
    StoppedError,
    UnsupportedError,
    UsageError,
)
from ggquant.gguf import GGUFFile, GGUFWriter, Tensor, open
from ggquant.metadata import Metadata, MetaValue
from ggquant.product import matmul, matmul_id
from ggquant.registry import FormatInfo, formats
from ggquant.tensor import QuantizedTensor, dequantize, quantize

if TYPE_CHECKING:
    from ggquant.calibration.collect import collect_imatrix
    from ggquant.evaluation.alone import Sensitivity, sensitivity
    from ggquant.evaluation.perplexity import evaluate
    from ggquant.evaluation.summary import Evaluation
    from ggquant.evaluation.tensors import Comparison, TensorDifference, compare
    from ggquant.files import Finding, merge, split, verify
    from ggquant.imatrix import Imatrix, load_imatrix
    from ggquant.methods.awq import awq_scales
    from ggquant.methods.clip import awq_clip
    from ggquant.methods.solver import gptq
    from ggquant.pipeline import ConversionReport, convert, plan
    from ggquant.planned import Plan, PlannedTensor
    from ggquant.policy import Options, variants
    from ggquant.progress import Progress
    from ggquant.runtime.model import RunnableModel, open_model

#: Names loaded on first use: a pipeline that only quantizes arrays should not wait for tokenizers and tables.
_LAZY = {
    "Sensitivity": "evaluation.alone",
    "sensitivity": "evaluation.alone",
    "Evaluation": "evaluation.summary",
    "evaluate": "evaluation.perplexity",
    "Comparison": "evaluation.tensors",
    "TensorDifference": "evaluation.tensors",
    "compare": "evaluation.tensors",
    "ConversionReport": "pipeline",
    "Finding": "files",
    "Imatrix": "imatrix",
    "Options": "policy",
    "Plan": "planned",
    "PlannedTensor": "planned",
    "Progress": "progress",
    "RunnableModel": "runtime.model",
    "collect_imatrix": "calibration.collect",
    "convert": "pipeline",
    "awq_clip": "methods.clip",
    "awq_scales": "methods.awq",
    "gptq": "methods.solver",
    "load_imatrix": "imatrix",
    "merge": "files",
    "open_model": "runtime.model",
    "plan": "pipeline",
    "split": "files",
    "variants": "policy",
    "verify": "files",
}

__all__ = [
    "CheckpointError",
    "Comparison",
    "ConversionReport",
    "DTypeError",
    "Error",
    "Evaluation",
    "FileError",
    "Finding",
    "FormatInfo",
    "GGUFFile",
    "GGUFWriter",
    "Imatrix",
    "ImatrixError",
    "InternalError",
    "InvalidBlockError",
    "MalformedFileError",
    "MetaValue",
    "Metadata",
    "NonFiniteError",
    "Options",
    "Plan",
    "PlannedTensor",
    "Progress",
    "QuantizedTensor",
    "RunnableModel",
    "Sensitivity",
    "ShapeError",
    "StoppedError",
    "Tensor",
    "TensorDifference",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "awq_clip",
    "awq_scales",
    "collect_imatrix",
    "compare",
    "convert",
    "dequantize",
    "evaluate",
    "formats",
    "gptq",
    "isa",
    "load_imatrix",
    "matmul",
    "matmul_id",
    "merge",
    "open",
    "open_model",
    "plan",
    "quantize",
    "sensitivity",
    "split",
    "variants",
    "verify",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'ggquant' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"ggquant.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
