"""Writes blocks.bin, which Rust tests read without an unpacker, from blocks.npz.

blocks.npz holds what ggml's ggml_quantize_chunk gave for 28 rows of 512 weights: `x`, `names` (what each row
is), `imatrix`, and the blocks of each format, plain (`Q4_K`) and weighted (`Q4_K/imatrix`).

blocks.bin is a sequence of entries, little-endian: length of the name (u32), name, length of the data (u64),
data.
"""

import struct
from pathlib import Path

import numpy as np


def main() -> None:
    here = Path(__file__).parent
    with np.load(here / "blocks.npz") as arrays, (here / "blocks.bin").open("wb") as out:
        for name in arrays.files:
            array = arrays[name]
            if array.dtype.kind == "U":
                data = "\n".join(array.tolist()).encode()
            else:
                data = np.ascontiguousarray(array).tobytes()
            key = name.encode()
            out.write(struct.pack("<I", len(key)) + key + struct.pack("<Q", len(data)) + data)


if __name__ == "__main__":
    main()
