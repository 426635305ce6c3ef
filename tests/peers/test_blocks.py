"""Every block format against ggml-base: the same bytes and decoded values, on rows made to be difficult."""

from __future__ import annotations

import numpy as np
import pytest

import ggml
import ggquant as gg
from rows import batches, importances

STORED = [info for info in gg.formats() if info.storage and info.bits_per_weight < 16]
THREADS = (1, 2, 8)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("info", STORED, ids=lambda info: info.name)
def test_bytes_and_values(info: gg.FormatInfo, weighted: bool, rng: np.random.Generator, row_count: int) -> None:
    if info.imatrix == "required" and not weighted:
        with pytest.raises(gg.ImatrixError, match=info.name):
            gg.quantize(np.ones((1, info.block_len), np.float32), info.name)
        return
    tried = 0
    for row_len in (info.block_len, 3 * info.block_len, 1024):
        for kind, rows in batches(rng, -(-row_count // 3), row_len):
            weights = importances(rng, row_len) if weighted else None
            theirs = ggml.encode(info.ggml_type, rows, weights)
            where = f"{info.name}, {kind}, rows of {row_len}"
            for threads in THREADS:
                ours = gg.quantize(rows, info.name, imatrix=weights, threads=threads)
                different = np.flatnonzero((ours.data != theirs).any(axis=1))
                assert not different.size, f"{where}: {different.size} rows differ, the first is {different[0]}"
            values = ggml.decode(info.ggml_type, theirs, rows.size)
            decoded = gg.dequantize(theirs, info.name, rows.shape)
            assert np.array_equal(decoded.reshape(-1).view(np.uint32), values.view(np.uint32)), where
            tried += len(rows)
    assert tried >= row_count


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_halves(name: str, rng: np.random.Generator, row_count: int) -> None:
    (info,) = (info for info in gg.formats() if info.name == name)
    for kind, rows in batches(rng, row_count, 256):
        theirs = ggml.encode(info.ggml_type, rows, None)
        assert np.array_equal(gg.quantize(rows, name).data, theirs), kind
        values = ggml.decode(info.ggml_type, theirs, rows.size)
        assert np.array_equal(gg.dequantize(theirs, name, rows.shape).reshape(-1), values), kind
