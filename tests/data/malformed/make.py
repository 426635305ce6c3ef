"""Writes the malformed files of this folder: one for each way in which a download can lie.

Run it here, without arguments; it needs only the standard library. `tests/gguf_malformed.rs` holds the
table of what each file must lead to. Names in capitals are those of the hand-made files in ggml's
`test-gguf.cpp`, which a good reader refuses; the files here are written from the description of the
format, one fault each.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

U8, U32, I32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 7, 8, 9, 10
F32, Q4_0, Q8_0, I8, I64 = 0, 2, 8, 24, 27
HERE = Path(__file__).parent


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: bytes) -> bytes:
    return u64(len(text)) + text


def header(tensors: int = 0, entries: int = 0, *, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + u32(version) + u64(tensors) + u64(entries)


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + u32(kind) + value


def alignment(value: int, kind: int = U32) -> bytes:
    return entry(b"general.alignment", kind, u32(value))


def tensor(name: bytes, dims: list[int], kind: int, offset: int) -> bytes:
    return string(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def pad(data: bytes, align: int = 32) -> bytes:
    return data + bytes(-len(data) % align)


def with_data(data: bytes, nbytes: int, align: int = 32) -> bytes:
    return pad(data, align) + bytes(i % 251 for i in range(nbytes))


MINUS_ONE = (1 << 64) - 1
T0 = tensor(b"t0", [32], F32, 0)
SPLIT = [
    entry(b"split.no", U32, u32(0)),
    entry(b"split.count", U32, u32(2)),
]
deep = b"".join(u32(ARRAY) + u64(1) for _ in range(1000))

GGUF = {
    # test-gguf.cpp: header
    "HEADER_BAD_MAGIC": pad(header(magic=b"FUGG")),
    "HEADER_BAD_VERSION_0": pad(header(version=0)),
    "HEADER_BAD_VERSION_1": pad(header(version=1)),
    "HEADER_BAD_VERSION_FUTURE": pad(header(version=4)),
    "HEADER_BAD_N_TENSORS": pad(header(MINUS_ONE)),
    "HEADER_BAD_N_KV": pad(header(0, MINUS_ONE)),
    "HEADER_EMPTY": pad(header()),
    # test-gguf.cpp: metadata
    "KV_BAD_KEY_SIZE": pad(header(0, 1) + u64(MINUS_ONE) + b"key" + u32(U32) + u32(1)),
    "KV_EMPTY_KEY": pad(header(0, 1) + entry(b"", U32, u32(1))),
    "KV_BAD_TYPE": pad(header(0, 1) + entry(b"key", 13, b"\0")),
    "KV_BAD_ARRAY_TYPE": pad(header(0, 1) + entry(b"key", ARRAY, u32(13) + u64(1) + b"\0")),
    "KV_BAD_VALUE_SIZE": pad(header(0, 1) + entry(b"key", STRING, u64(MINUS_ONE) + b"value")),
    "KV_DUPLICATE_KEY": pad(header(0, 2) + entry(b"key", U32, u32(1)) + entry(b"key", U32, u32(2))),
    "KV_BAD_ALIGN": pad(header(0, 1) + alignment(13)),
    "KV_WRONG_TYPE_ALIGN": pad(header(0, 1) + alignment(32, I32)),
    "KV_SUCCESS": pad(header(0, 1) + entry(b"key", U32, u32(1))),
    # test-gguf.cpp: tensors
    "TENSORS_BAD_NAME_SIZE": with_data(header(1) + tensor(b"n" * 64, [32], F32, 0), 128),
    "TENSORS_BAD_N_DIMS": with_data(header(1) + tensor(b"t0", [32, 1, 1, 1, 1], F32, 0), 128),
    "TENSORS_BAD_SHAPE": with_data(header(1) + tensor(b"t0", [MINUS_ONE], F32, 0), 128),
    "TENSORS_ZERO_DIM": with_data(header(1) + tensor(b"t0", [32, 0], F32, 0), 0),
    "TENSORS_NE_TOO_BIG": with_data(header(1) + tensor(b"t0", [(1 << 33) - 4, (1 << 33) - 4], F32, 0), 128),
    "TENSORS_NBYTES_TOO_BIG": with_data(header(1) + tensor(b"t0", [1533916891, 1533916891], I64, 0), 128),
    "TENSORS_NBYTES_PAD_WRAP": with_data(header(1) + tensor(b"t0", [4, (1 << 30) - 1, (1 << 30) + 1], F32, 0), 128),
    "TENSORS_BAD_TYPE": with_data(header(1) + tensor(b"t0", [32], 43, 0), 128),
    "TENSORS_BAD_OFFSET": with_data(header(1) + tensor(b"t0", [32], F32, MINUS_ONE), 128),
    "TENSORS_DUPLICATE_NAME": with_data(header(2) + T0 + tensor(b"t0", [32], F32, 128), 256),
    "TENSORS_BAD_ALIGN": with_data(header(1, 1) + alignment(13) + T0, 128, 13),
    "TENSORS_INCONSISTENT_ALIGN": with_data(header(2) + tensor(b"t0", [5], I8, 0) + tensor(b"t1", [5], I8, 5), 64, 1),
    "TENSORS_SUCCESS": with_data(header(2) + T0 + tensor(b"t1", [32, 2], Q4_0, 128), 192),
    "TENSORS_CUSTOM_ALIGN": with_data(
        header(2, 1) + alignment(1) + tensor(b"t0", [5], I8, 0) + tensor(b"t1", [5], I8, 5), 10, 1
    ),
    # test-gguf.cpp: data
    "DATA_NOT_ENOUGH_DATA": with_data(header(1) + T0, 127),
    "DATA_BAD_ALIGN": with_data(header(1, 1) + alignment(48) + T0, 128, 48),
    "DATA_INCONSISTENT_ALIGN": with_data(header(1) + T0, 128, 1),
    "DATA_MEM_SIZE_OVERFLOW": with_data(
        header(2)
        + tensor(b"t0", [0x7FFFFFFFFFFFFFC0], I8, 0)
        + tensor(b"t1", [0x7FFFFFFFFFFFFFC0], I8, 0x7FFFFFFFFFFFFFC0),
        32,
    ),
    # What hostile downloads have done elsewhere, or could.
    "tensor_larger_than_file": with_data(header(1) + tensor(b"t0", [1 << 20, 64], F32, 0), 128),
    "tensor_ends_past_file": with_data(header(2) + T0 + tensor(b"t1", [32], F32, 128), 250),
    "array_length_near_2_63": header(0, 1) + entry(b"k", ARRAY, u32(U8) + u64((1 << 63) - 1)),
    "array_length_wraps": header(0, 1) + entry(b"k", ARRAY, u32(U64) + u64((1 << 61) + 1)) + bytes(8),
    "string_array_length_wraps": header(0, 1) + entry(b"k", ARRAY, u32(STRING) + u64(1 << 61)) + bytes(8),
    "nested_arrays_without_end": header(0, 1) + entry(b"k", ARRAY, deep[:-12] + u32(U8) + u64(0)),
    "nested_arrays_wide": header(0, 1) + entry(b"k", ARRAY, u32(ARRAY) + u64(1 << 60) + (u32(U8) + u64(0)) * 3),
    "alignment_zero": with_data(header(1, 1) + alignment(0) + T0, 128),
    "alignment_huge": with_data(header(1, 1) + alignment(1 << 31) + T0, 128),
    "overlapping_tensors": with_data(header(2) + T0 + tensor(b"t1", [32], F32, 64), 256),
    "identical_regions": with_data(header(2) + T0 + tensor(b"t1", [32], F32, 0), 256),
    "gap_between_tensors": with_data(header(2) + T0 + tensor(b"t1", [32], F32, 192), 512),
    "tensors_out_of_order": with_data(header(2) + tensor(b"t0", [32], F32, 128) + tensor(b"t1", [32], F32, 0), 256),
    "undersized_region": with_data(header(2) + tensor(b"t0", [64], F32, 0) + tensor(b"t1", [32], F32, 128), 384),
    "unknown_type_overlaps": with_data(header(2) + tensor(b"t0", [32], 99, 64) + tensor(b"t1", [32], F32, 32), 512),
    "row_not_whole_blocks": with_data(header(1) + tensor(b"t0", [33], Q8_0, 0), 128),
    "zero_dimension_hides_overflow": with_data(header(1) + tensor(b"t0", [0, 1 << 62, 1 << 62], F32, 0), 32),
    "n_dims_huge": with_data(header(1) + string(b"t0") + u32(0xFFFFFFFF) + bytes(64), 128),
    "tensor_name_with_nul": with_data(header(1) + tensor(b"a\0b", [32], F32, 0), 128),
    "tensor_name_not_utf8": with_data(header(1) + tensor(b"\xff\xfe", [32], F32, 0), 128),
    "key_not_utf8": pad(header(0, 1) + entry(b"\xff\xfe", U32, u32(1))),
    "key_with_nul": pad(header(0, 1) + entry(b"a\0b", U32, u32(1))),
    "empty_file": b"",
    "only_magic": b"GGUF",
    "counts_missing": b"GGUF" + u32(3) + u64(1),
    "value_missing": header(0, 1) + string(b"k") + u32(U64) + bytes(7),
    "padding_missing": header(1) + tensor(b"t0", [0], F32, 0),
    "removed_type": with_data(header(1) + tensor(b"t0", [32], 4, 0), 128),
    "split_of_two_alone": with_data(header(1, 2) + b"".join(SPLIT) + T0, 128),
}

IMATRIX_KEYS = (
    entry(b"imatrix.datasets", ARRAY, u32(STRING) + u64(1) + string(b"text"))
    + entry(b"imatrix.chunk_count", U32, u32(1))
    + entry(b"imatrix.chunk_size", U32, u32(512))
)


SIGNED_SIZE = IMATRIX_KEYS.replace(b"chunk_size" + u32(U32), b"chunk_size" + u32(I32))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def imatrix(
    sums: list[float], counts: list[float], *, keys: bytes = IMATRIX_KEYS, entries: int = 3, kind: int = F32
) -> bytes:
    infos = tensor(b"w.in_sum2", [len(sums)], kind, 0) + tensor(b"w.counts", [1, len(counts)], F32, 32)
    return pad(header(2, entries) + keys + infos) + pad(floats(*sums)) + pad(floats(*counts))


def legacy(*entries: bytes, count: int | None = None, tail: bytes = b"") -> bytes:
    return struct.pack("<i", len(entries) if count is None else count) + b"".join(entries) + tail


def legacy_entry(
    name: bytes,
    values: list[float],
    *,
    calls: int = 1,
    name_len: int | None = None,
    count: int | None = None,
) -> bytes:
    return (
        struct.pack("<i", len(name) if name_len is None else name_len)
        + name
        + struct.pack("<ii", calls, len(values) if count is None else count)
        + floats(*values)
    )


IMATRIX = {
    "valid.gguf": imatrix([2.0, 4.0, 6.0, 8.0], [2.0]),
    "no_metadata.gguf": imatrix([1.0], [1.0], keys=b"", entries=0),
    "wrong_type.gguf": imatrix([1.0], [1.0], keys=SIGNED_SIZE),
    "counts_missing.gguf": with_data(header(1, 3) + IMATRIX_KEYS + tensor(b"w.in_sum2", [4], F32, 0), 32),
    "no_counts.gguf": with_data(
        header(2, 3) + IMATRIX_KEYS + tensor(b"w.in_sum2", [4], F32, 0) + tensor(b"w.counts", [0], F32, 32),
        32,
    ),
    "indivisible.gguf": imatrix([1.0, 2.0, 3.0], [1.0, 1.0]),
    "nan_count.gguf": imatrix([1.0, 2.0], [float("nan")]),
    "infinite_sum.gguf": imatrix([1.0, float("inf")], [1.0]),
    "negative_sum.gguf": imatrix([1.0, -1.0], [1.0]),
    "not_f32.gguf": imatrix([1.0], [1.0], kind=26),
    "no_tensors.gguf": pad(header(0, 3) + IMATRIX_KEYS),
    "valid.dat": legacy(legacy_entry(b"w", [2.0, 4.0], calls=2), tail=struct.pack("<ii", 7, 4) + b"text"),
    "valid_without_tail.dat": legacy(legacy_entry(b"w", [2.0, 4.0], calls=0)),
    "no_entries.dat": legacy(count=0),
    "negative_count.dat": legacy(legacy_entry(b"w", [1.0]), count=-1),
    "count_huge.dat": legacy(legacy_entry(b"w", [1.0]), count=0x7FFFFFFF),
    "name_length_negative.dat": legacy(legacy_entry(b"w", [1.0] * 4, name_len=-1)),
    "name_length_huge.dat": legacy(legacy_entry(b"w", [1.0] * 4, name_len=0x7FFFFFFF)),
    "name_not_utf8.dat": legacy(legacy_entry(b"\xff", [1.0])),
    "values_zero.dat": legacy(legacy_entry(b"w", [1.0], count=0)),
    "values_negative.dat": legacy(legacy_entry(b"w", [1.0], count=-5)),
    "values_huge.dat": legacy(legacy_entry(b"w", [1.0], count=0x7FFFFFFF)),
    "value_nan.dat": legacy(legacy_entry(b"w", [1.0, float("nan")])),
    "tail_cut_short.dat": legacy(legacy_entry(b"w", [1.0]), tail=b"\1\0"),
    "dataset_length_huge.dat": legacy(legacy_entry(b"w", [1.0]), tail=struct.pack("<ii", 1, 0x7FFFFFFF)),
    "empty.dat": b"",
}


def safetensors(head: object, data: int = 0, *, length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return u64(len(text) if length is None else length) + text + bytes(data)


def st(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "valid": safetensors({"a": st("F32", [2], 0, 8)}, 8),
    "empty_file": b"",
    "header_length_huge": safetensors({}, length=MINUS_ONE),
    "header_larger_than_file": safetensors({}, length=1000),
    "not_json": safetensors(b"{not json"),
    "nested_without_end": safetensors(b"[" * 50_000),
    "duplicate_name": safetensors(
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        4,
    ),
    "past_end": safetensors({"a": st("F32", [4], 0, 16)}, 8),
    "trailing_data": safetensors({"a": st("F32", [2], 0, 8)}, 16),
    "overlap": safetensors({"a": st("F32", [2], 0, 8), "b": st("F32", [2], 4, 12)}, 12),
    "hole": safetensors({"a": st("F32", [2], 0, 8), "b": st("F32", [2], 16, 24)}, 24),
    "range_backwards": safetensors({"a": st("F32", [2], 8, 0)}, 8),
    "size_mismatch": safetensors({"a": st("F32", [3], 0, 8)}, 8),
    "product_wraps": safetensors({"a": st("F32", [1 << 62, 4], 0, 0)}),
    "dimension_negative": safetensors({"a": st("F32", [-1], 0, 8)}, 8),
    "dimensions_without_end": safetensors({"a": st("F32", [1] * 1000, 0, 4)}, 4),
    "unknown_type": safetensors({"a": st("F33", [2], 0, 8)}, 8),
}


def main() -> None:
    for folder, suffix, files in (
        ("gguf", ".gguf", GGUF),
        ("imatrix", "", IMATRIX),
        ("safetensors", ".safetensors", SAFETENSORS),
    ):
        (HERE / folder).mkdir(exist_ok=True)
        for name, data in files.items():
            (HERE / folder / f"{name}{suffix}").write_bytes(data)


if __name__ == "__main__":
    main()
