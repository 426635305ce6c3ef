"""Statistics of activations over a calibration text: what importance matrices are made of.

```python
from ggquant import calibration

result = calibration.collect_imatrix("model.gguf", ["text.txt"], "imatrix.gguf")
```
"""

from __future__ import annotations

from ggquant.calibration.chunks import Chunks, cut
from ggquant.calibration.collect import Collection, CollectProgress, collect_imatrix
from ggquant.calibration.statistics import Statistics, read_statistics, write_statistics
from ggquant.calibration.texts import CalibrationText, default_text, read_texts

__all__ = [
    "CalibrationText",
    "Chunks",
    "CollectProgress",
    "Collection",
    "Statistics",
    "collect_imatrix",
    "cut",
    "default_text",
    "read_statistics",
    "read_texts",
    "write_statistics",
]
