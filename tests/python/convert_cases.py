"""Conversions of the bundled model that are held against llama.cpp, and the checkpoints they start from.

tests/peers/make_convert.py carries them out with llama.cpp and records the digests of the files.
"""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np

DATA = Path(__file__).resolve().parents[1] / "data"
TINYLM = DATA / "tinylm"
CONVERT = DATA / "convert"

#: Every variant of llama-quantize but COPY, in the order of its help.
FAST = [
    "Q1_0",
    "Q2_0",
    "Q4_0",
    "Q4_1",
    "MXFP4_MOE",
    "Q5_0",
    "Q5_1",
    "TQ1_0",
    "TQ2_0",
    "Q2_K",
    "Q2_K_S",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "IQ4_NL",
    "IQ4_XS",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
    "F16",
    "BF16",
    "F32",
]
#: Searches of codebooks take long: these convert two of the six layers.
SLOW = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M"]
PRUNED = "1,2,3,4"
REFUSED = "refused"


@dataclass(frozen=True)
class Case:
    """One run of llama-quantize.

    - `source`: what it reads: "bf16", "f16" or "f32" for the checkpoint of that type after the converter, or the
      name of the case whose output it reads.
    - `imatrix`: name of a file in tests/data/convert, or None.
    - `options`: words for the command line, the same for both programs.
    """

    source: str
    variant: str
    imatrix: str | None = None
    options: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """One word for each choice."""
        kind = Path(self.imatrix).suffix if self.imatrix else ""
        options = "".join(word.removeprefix("-") for word in self.options)
        return f"{self.source}-{self.variant}{kind}{options}"


def _cases() -> dict[str, Case]:
    cases = []
    for imatrix in (None, "imatrix.gguf"):
        cases += [Case("bf16", variant, imatrix) for variant in FAST]
        cases += [Case("bf16", variant, imatrix, ("--prune-layers", PRUNED)) for variant in SLOW]
        for stored in ("f16", "f32"):
            cases += [Case(stored, variant, imatrix) for variant in ("F16", "Q8_0", "Q4_0", "Q4_K_M")]
    cases += [Case("f16", "BF16"), Case("f16", "F32"), Case("f32", "BF16"), Case("f32", "F32")]
    cases += [Case("bf16", "Q4_K_M", "imatrix.dat"), Case("bf16", "Q2_K", "imatrix.dat")]
    again = ("--allow-requantize",)
    for start, variants in {
        "bf16-BF16": ["Q4_K_M", "COPY"],
        "bf16-F16": ["Q6_K"],
        "bf16-Q8_0": ["Q4_K_M", "BF16", "COPY"],
        "bf16-Q4_K_M": ["Q8_0", "Q3_K_S", "COPY", "F32"],
        "f32-F32": ["Q5_K_M", "COPY"],
    }.items():
        cases += [Case(start, variant, None, again) for variant in variants]
    cases += [Case("bf16-Q8_0", "Q4_0", "imatrix.gguf", again)]
    # Refused: the source is quantized already.
    cases += [Case("bf16-Q8_0", "Q4_K_M")]
    return {case.name: case for case in cases}


CASES = _cases()


def checkpoint(stored: str, folder: Path) -> Path:
    """The bundled checkpoint with weights of another type: "bf16" as it is, "f16" or "f32" from scaled values."""
    if stored == "bf16":
        return TINYLM
    # The folder's name becomes part of the file, since the checkpoint has no name of its own.
    made = folder / stored / "tinylm"
    shutil.copytree(TINYLM, made)
    path = made / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    start, kind, name = 8 + length, *{"f16": (np.float16, "F16"), "f32": (np.float32, "F32")}[stored]
    chunks, offset = [], 0
    for tensor, facts in header.items():
        if tensor == "__metadata__":
            continue
        first, last = facts["data_offsets"]
        values = np.frombuffer(data[start + first : start + last], ml_dtypes.bfloat16).astype(np.float32)
        # A factor that is no power of two fills all bits of the mantissa.
        chunk = (values * np.float32(1.1)).astype(kind).tobytes()
        facts |= {"dtype": name, "data_offsets": [offset, offset + len(chunk)]}
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))
    config = json.loads((made / "config.json").read_text())
    config["dtype"] = {"f16": "float16", "f32": "float32"}[stored]
    (made / "config.json").write_text(json.dumps(config))
    return made
