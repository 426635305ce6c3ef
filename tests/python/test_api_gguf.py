"""GGUF files from Python: what goes in comes out, and a file appears whole or not at all."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ggquant as gg

RANGES = {
    "UINT8": (0, 2**8 - 1),
    "INT8": (-(2**7), 2**7 - 1),
    "UINT16": (0, 2**16 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "UINT32": (0, 2**32 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "UINT64": (0, 2**64 - 1),
    "INT64": (-(2**63), 2**63 - 1),
}
#: Strings as Python reads them from a file: bytes that are not UTF-8 are lone surrogates.
TEXTS = st.binary(max_size=12).map(lambda b: b.decode("utf-8", "surrogateescape"))
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    **{kind: st.integers(*limits) for kind, limits in RANGES.items()},
    "FLOAT32": st.floats(width=32, allow_nan=False),
    "FLOAT64": st.floats(allow_nan=False),
    "BOOL": st.booleans(),
    "STRING": TEXTS,
}


def arrays(depth: int) -> st.SearchStrategy[gg.MetaValue]:
    flat = st.sampled_from(sorted(SCALARS)).flatmap(
        lambda kind: st.lists(SCALARS[kind], max_size=4).map(lambda items: gg.MetaValue("ARRAY", items, kind))
    )
    if depth == 0:
        return flat
    nested = st.lists(arrays(depth - 1), max_size=3).map(lambda items: gg.MetaValue("ARRAY", items, "ARRAY"))
    return flat | nested


VALUES = arrays(2) | st.sampled_from(sorted(SCALARS)).flatmap(
    lambda kind: SCALARS[kind].map(lambda value: gg.MetaValue(kind, value))
)
KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20).filter(
    lambda key: key != "general.alignment" and not key.startswith("split.")
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.dictionaries(KEYS, VALUES, max_size=6))
def test_metadata_of_every_type_round_trips(entries: dict[str, gg.MetaValue], tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    with gg.GGUFWriter(path, entries, overwrite=True) as writer:
        writer.add("x", np.zeros(1, np.float32))
    read = gg.open(path).metadata
    assert list(read) == list(entries)
    for key, value in entries.items():
        assert read.typed(key) == value
        assert read[key] == value.plain()
    # Read, and written again without a change: the same file.
    second = tmp_path / "again.gguf"
    with gg.GGUFWriter(second, read, overwrite=True) as writer:
        writer.add("x", np.zeros(1, np.float32))
    assert second.read_bytes() == path.read_bytes()


def test_types_of_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    plain = {
        "a": (True, "BOOL", None),
        "b": (7, "UINT32", None),
        "c": (-7, "INT32", None),
        "d": (2**40, "UINT64", None),
        "e": (-(2**40), "INT64", None),
        "f": (0.5, "FLOAT32", None),
        "g": ("text", "STRING", None),
        "h": (np.uint8(3), "UINT8", None),
        "i": (np.float64(0.1), "FLOAT64", None),
        "j": ([1, -2], "ARRAY", "INT32"),
        "k": ([1, 2.5], "ARRAY", "FLOAT32"),
        "l": (["x", "y"], "ARRAY", "STRING"),
        "m": (np.array([1, 2], np.int16), "ARRAY", "INT16"),
        "n": ([], "ARRAY", "INT32"),
        "o": ((False, True), "ARRAY", "BOOL"),
        "p": (np.bool_(True), "BOOL", None),
    }
    gg.GGUFWriter(path, {key: value for key, (value, _, _) in plain.items()}).close()
    read = gg.open(path)
    assert read.tensors == {}
    for key, (value, kind, item) in plain.items():
        typed = read.metadata.typed(key)
        assert (typed.type, typed.item_type) == (kind, item)
        assert np.all(read.metadata[key] == (list(value) if kind == "ARRAY" else value))


def test_bytes_are_strings_that_need_not_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    token = b"\xff\x00\xfe<0xE2>"
    gg.GGUFWriter(
        path, {"a": gg.MetaValue("STRING", token), "b": gg.MetaValue("ARRAY", [token, "é"], "STRING")}
    ).close()
    read = gg.open(path).metadata
    assert read["a"].encode("utf-8", "surrogateescape") == token
    assert [s.encode("utf-8", "surrogateescape") for s in read["b"]] == [token, "é".encode()]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        object(),
        2**64,
        -(2**63) - 1,
        [1, "a"],
        [[1]],
        b"raw",
        1j,
        np.zeros((2, 2)),
        gg.MetaValue("UINT8", 256),
        gg.MetaValue("BOOL", 1),
        gg.MetaValue("FLOAT32", "1"),
        gg.MetaValue("HALF", 1),
        gg.MetaValue("STRING", 3),
        gg.MetaValue("ARRAY", [1], "VOID"),
        gg.MetaValue("ARRAY", [1, -1], "UINT32"),
        gg.MetaValue("ARRAY", [1], "ARRAY"),
        gg.MetaValue("ARRAY", 5, "INT32"),
        gg.MetaValue("ARRAY", "ab", "STRING"),
    ],
)
def test_values_that_gguf_cannot_hold(value: Any, tmp_path: Path) -> None:
    with pytest.raises(gg.UsageError, match=r"some\.key"):
        gg.GGUFWriter(tmp_path / "out.gguf", {"some.key": value})
    assert not list(tmp_path.iterdir())


def test_a_float_too_large_for_its_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gg.UsageError, match="big"):
        gg.GGUFWriter(tmp_path / "out.gguf", {"big": 1e300})
    gg.GGUFWriter(tmp_path / "out.gguf", {"big": gg.MetaValue("FLOAT64", 1e300), "inf": float("inf")}).close()
    assert gg.open(tmp_path / "out.gguf").metadata["big"] == 1e300


def test_tensors_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    rng = np.random.default_rng(4)
    floats = rng.standard_normal((2, 3, 256)).astype(np.float32)
    arrays: dict[str, Any] = {
        kind: (100 * floats).astype(kind)
        for kind in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", ml_dtypes.bfloat16)
    }
    blocks = {
        f.name: gg.quantize(floats, f.name, imatrix=np.ones(256) if f.imatrix == "required" else None)
        for f in gg.formats()
        if f.storage
    }
    with gg.GGUFWriter(path) as writer:
        for name, array in arrays.items():
            writer.add(str(name), array)
        for name, q in blocks.items():
            writer.add(name, q)
    read = gg.open(path)
    assert list(read.tensors) == [*map(str, arrays), *blocks]
    for name, array in arrays.items():
        tensor = read.tensors[str(name)]
        assert tensor.shape == array.shape and tensor.nbytes == array.nbytes
        assert np.array_equal(tensor.read(), np.ascontiguousarray(array).view(np.uint8).reshape(-1))
        assert np.array_equal(tensor.dequantize(), array)
    for name, q in blocks.items():
        tensor = read.tensors[name]
        assert tensor.format == name and tensor.quantized() == q
        assert np.array_equal(tensor.dequantize(), q.dequantize())
        part = tensor.rows(2, 5)
        assert part.shape == (3, 256) and np.array_equal(part.data, q.data.reshape(6, -1)[2:5])
        assert tensor.rows(6, 6).shape == (0, 256)
        assert tensor.offset % read.alignment == 0
        assert path.read_bytes()[tensor.offset :][: tensor.nbytes] == q.data.tobytes()
    assert "Q4_K, shape=(2, 3, 256)" in repr(read.tensors["Q4_K"])
    assert gg.verify(path) == []


@pytest.mark.parametrize("limits", [(-1, 2), (2, 1), (0, 7), (7, 8)])
def test_rows_out_of_range(limits: tuple[int, int], tmp_path: Path) -> None:
    with gg.GGUFWriter(tmp_path / "out.gguf") as writer:
        writer.add("x", np.zeros((2, 3, 32), np.float32))
    with pytest.raises(gg.ShapeError, match="'x' has 6 rows"):
        gg.open(tmp_path / "out.gguf").tensors["x"].rows(*limits)


@pytest.mark.parametrize("kind", [">f4", ">f2", ">f8", ">i2", ">i4", ">i8"])
def test_byte_order_of_arrays_is_not_that_of_the_file(kind: str, tmp_path: Path) -> None:
    array = np.arange(64, dtype=kind).reshape(2, 32)
    with gg.GGUFWriter(tmp_path / "out.gguf") as writer:
        writer.add("x", array)
        writer.add("part", array[:, ::2].T)
    tensors = gg.open(tmp_path / "out.gguf").tensors
    assert np.array_equal(tensors["x"].dequantize(), array)
    assert np.array_equal(tensors["part"].dequantize(), array[:, ::2].T)


def test_big_endian_files_are_read_as_they_mean(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "data" / "gguf"
    big, little = gg.open(path / "swapped.big.gguf"), gg.open(path / "swapped.gguf")
    assert (big.byte_order, little.byte_order) == ("big", "little")
    assert dict(big.metadata) == dict(little.metadata)
    for name, tensor in little.tensors.items():
        assert np.array_equal(big.tensors[name].dequantize(), tensor.dequantize(), equal_nan=True), name


@pytest.mark.parametrize("array", [np.zeros(3, bool), np.zeros(3, np.uint8), np.zeros(3, complex), np.array(["a"])])
def test_dtypes_without_a_gguf_type(array: Any, tmp_path: Path) -> None:
    writer = gg.GGUFWriter(tmp_path / "out.gguf")
    with pytest.raises(gg.UsageError, match=r"'x': dtype .* has no GGUF type"):
        writer.add("x", array)
    writer.discard()


def test_names_and_shapes_that_files_cannot_hold(tmp_path: Path) -> None:
    with gg.GGUFWriter(tmp_path / "out.gguf") as writer:
        writer.add("x" * 63, np.zeros((1, 1, 1, 2), np.float32))
        for name, array in {
            "y" * 64: np.zeros(2, np.float32),
            "x" * 63: np.zeros(2, np.float32),
            "scalar": np.float32(2),
            "five": np.zeros((1, 1, 1, 1, 2), np.float32),
        }.items():
            with pytest.raises(gg.Error, match=name[:5]) as caught:
                writer.add(name, array)
            assert isinstance(caught.value, gg.UsageError | gg.ShapeError)
    assert list(gg.open(tmp_path / "out.gguf").tensors) == ["x" * 63]


# --- whole or not at all


def add_some(writer: gg.GGUFWriter) -> None:
    writer.add("x", np.arange(4096, dtype=np.float32))


def test_an_exception_discards(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), gg.GGUFWriter(tmp_path / "out.gguf") as writer:
        add_some(writer)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with pytest.raises(gg.UsageError, match="closed"):
        add_some(writer)


def test_a_forgotten_writer_leaves_nothing(tmp_path: Path) -> None:
    writer = gg.GGUFWriter(tmp_path / "out.gguf")
    add_some(writer)
    del writer
    assert not list(tmp_path.iterdir())


def test_a_closed_writer_is_closed(tmp_path: Path) -> None:
    writer = gg.GGUFWriter(tmp_path / "out.gguf")
    add_some(writer)
    writer.close()
    for call in (writer.close, lambda: add_some(writer)):
        with pytest.raises(gg.UsageError, match="closed"):
            call()
    writer.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_an_existing_file_is_replaced_only_on_demand_and_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    path.write_bytes(b"precious")
    with pytest.raises(gg.FileError, match=r"out\.gguf"):
        gg.GGUFWriter(path)
    with pytest.raises(ZeroDivisionError), gg.GGUFWriter(path, overwrite=True) as writer:
        add_some(writer)
        raise ZeroDivisionError
    assert path.read_bytes() == b"precious"
    with gg.GGUFWriter(path, overwrite=True) as writer:
        add_some(writer)
        assert path.read_bytes() == b"precious"
    assert list(gg.open(path).tensors) == ["x"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_a_file_that_appeared_meanwhile_survives(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    writer = gg.GGUFWriter(path)
    add_some(writer)
    path.write_bytes(b"precious")
    with pytest.raises(gg.FileError, match=r"out\.gguf"):
        writer.close()
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_a_failure_to_close_leaves_nothing(tmp_path: Path) -> None:
    writer = gg.GGUFWriter(tmp_path / "out.gguf")
    add_some(writer)
    writer.metadata["general.alignment"] = 7
    with pytest.raises(gg.Error, match="alignment"):
        writer.close()
    del writer
    assert not list(tmp_path.iterdir())


def test_permissions_follow_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        gg.GGUFWriter(tmp_path / "out.gguf").close()
    finally:
        os.umask(old)
    assert (tmp_path / "out.gguf").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(gg.FileError, match="none") as caught:
        gg.GGUFWriter(tmp_path / "none" / "out.gguf")
    assert caught.value.errno == 2 and isinstance(caught.value, OSError)


# --- files that are not what they say


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    with gg.GGUFWriter(path) as writer:
        writer.add("x", np.zeros(1 << 20, np.float32))
    tensor = gg.open(path).tensors["x"]
    os.truncate(path, 5000)
    with pytest.raises((gg.MalformedFileError, gg.FileError), match=r"out\.gguf") as caught:
        tensor.read()
    assert "'x'" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGML" + bytes(40), b"GGUF" + struct.pack("<IQQ", 9, 0, 0)])
def test_what_is_no_gguf(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises((gg.MalformedFileError, gg.UnsupportedError), match=r"bad\.gguf") as caught:
        gg.open(path)
    assert caught.value.file == str(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(gg.Error, match=str(tmp_path)):
        gg.open(tmp_path)
