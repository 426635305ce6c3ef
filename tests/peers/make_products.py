"""Makes `tests/data/golden/products.npz`: products of ggml's CPU backend, for `tests/python/test_matmul.py`.

    PYTHONPATH=benches/python python tests/peers/make_products.py [--library FOLDER]

For every format that weights are stored in, ggml multiplies the same 5 rows of 512 weights, in blocks, with the same
7 rows of activations. The file holds blocks (`<format>/w`), products (`<format>/y`) and activations (`x`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ggml_product import Ggml

import ggquant as gg

ROWS, COLUMNS, BATCH = 5, 512, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", help="folder of libggml-base.so and libggml-cpu.so")
    ggml = Ggml(parser.parse_args().library)
    rng = np.random.default_rng(7)
    weights = (rng.standard_t(5, (ROWS, COLUMNS)) * 0.02).astype(np.float32)
    x = rng.standard_normal((BATCH, COLUMNS)).astype(np.float32)
    x[2, :256] *= 1000  # blocks of very different magnitude
    x[3] = 0
    x[4] = np.sign(x[4])  # all as large as the largest
    x[5, 100:] = 0
    arrays = {"x": x}
    importance = np.ones(COLUMNS, np.float32)
    for format in gg.formats():
        if format.storage and format.block_len > 1:
            blocks = gg.quantize(weights, format.name, importance if format.imatrix == "required" else None).data
            product = ggml.product(format.ggml_type, blocks, x)
            product.run()
            arrays[f"{format.name}/w"], arrays[f"{format.name}/y"] = blocks, product.result()
            product.close()
    target = Path(__file__).parents[1] / "data" / "golden" / "products.npz"
    np.savez_compressed(target, **arrays)
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
