"""Fixtures: a model as GGUF, an importance matrix for it, and how many rows to try."""

from __future__ import annotations

import os
import secrets
import zlib
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

import ggquant as gg

TINYLM = Path(__file__).parents[1] / "data" / "tinylm"


@pytest.fixture(scope="session", autouse=True)
def backend() -> None:
    llama_cpp.llama_backend_init()


@pytest.fixture(scope="session")
def row_count() -> int:
    """Rows for each format and kind of encoding; `PEER_ROWS` asks for more."""
    return int(os.environ.get("PEER_ROWS", "2000"))


@pytest.fixture(scope="session")
def seed() -> int:
    """Another one every run; `PEER_SEED` brings one back."""
    return int(os.environ.get("PEER_SEED", "0")) or secrets.randbits(32)


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> np.random.Generator:
    """Numbers that depend on the seed and the test alone; pytest shows the seed when the test fails."""
    print(f"PEER_SEED={seed}")
    return np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture(scope="session")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint, converted without quantizing."""
    path = tmp_path_factory.mktemp("model") / "tinylm-bf16.gguf"
    gg.convert(TINYLM, path, "BF16")
    return path


@pytest.fixture(scope="session")
def imatrix(bf16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix with data for every matrix of the model, in the GGUF layout of llama-imatrix."""
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    rng = np.random.default_rng(20)
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": ["calibration.txt"],
        "imatrix.chunk_count": gg.MetaValue("UINT32", 7),
        "imatrix.chunk_size": gg.MetaValue("UINT32", 512),
    }
    with gg.GGUFWriter(path, metadata) as writer:
        for tensor in gg.open(bf16).tensors.values():
            if len(tensor.shape) == 2 and tensor.name not in ("token_embd.weight", "output.weight"):
                sums = np.exp2(rng.uniform(-3, 12, (1, tensor.shape[-1]))).astype(np.float32)
                writer.add(f"{tensor.name}.in_sum2", sums)
                writer.add(f"{tensor.name}.counts", np.float32([[3584]]))
    return path
