"""The formats that plans count with are the formats that the native module encodes."""

from __future__ import annotations

import ggquant as gg
from ggquant.tensor_types import FORMATS, Kind


def test_plans_and_encoders_agree_on_every_format() -> None:
    encoded = {f.name: (f.ggml_type, f.block_len, f.block_bytes) for f in gg.formats()}
    counted = {
        name: (f.ggml_type, f.block_len, f.block_bytes) for name, f in FORMATS.items() if f.kind is not Kind.OTHER
    }
    assert counted == encoded
    assert {f.name for f in gg.formats() if not f.storage} == {
        name for name, f in FORMATS.items() if f.kind is Kind.ACTIVATION
    }
