"""Checkpoints whose weights are packed integers, read as if they held the weights themselves.

`checkpoint.py` finds out which kind of checkpoint it is; `gptq.py`, `awq.py` and `compressed_tensors.py` know one
layout each and put the parts of a matrix together; `transcode.py` says which block formats can take the codes as they
are. Nothing here reads codes or scales: that is the engine's work. Zero points, lists of groups and shapes are looked
at, where they decide what the codes mean.
"""
