"""The forward pass of a model, one layer at a time: what calibration and evaluation run.

```python
from ggquant import runtime

model = runtime.open_model("checkpoint/")           # or a GGUF file of any format
h = model.embed(tokens)                             # tokens [n_chunks, n_ctx] -> [n_chunks, n_ctx, hidden]
for il in range(model.n_layer):
    h = model.block(il)(h, hook)                    # one block's weights in memory at a time
logits = model.logits(h)                            # [n_chunks, n_ctx, n_vocab]
```
"""

from __future__ import annotations

from ggquant.runtime.block import Block
from ggquant.runtime.linear import Hook, Weight
from ggquant.runtime.model import RunnableModel, open_model

__all__ = ["Block", "Hook", "RunnableModel", "Weight", "open_model"]
