"""Writes the golden files of this folder with llama.cpp's own tools.

    PYTHONPATH=LLAMA_CPP_SOURCE/gguf-py python make.py LLAMA_CPP_SOURCE LLAMA_CPP_BUILD MODEL.gguf TEXT

gguf-py writes `mixed.gguf`, with every type of metadata and every block format it knows, and `swapped.gguf`,
which its own converter turns into `swapped.big.gguf`. `llama-gguf-split` splits and merges the first.
`llama-imatrix` measures MODEL on TEXT in both of its formats, and `experts.gguf` is an importance matrix with
experts. `imatrix.json` has the values that `llama-quantize` takes from those three files, as FNV-1a digests:
quantize.cpp is compiled into a program that calls its `load_imatrix`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent
SOURCE, BUILD, MODEL, TEXT = (Path(a).resolve() for a in sys.argv[1:5])

SWAPPABLE = ["Q1_0", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "TQ2_0", "MXFP4", "NVFP4"]


def mixed(path: Path, formats: list[str]) -> None:
    rng = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("x.u8", 200)
    writer.add_int8("x.i8", -3)
    writer.add_uint16("x.u16", 60000)
    writer.add_int16("x.i16", -7)
    writer.add_uint32("x.u32", 1 << 31)
    writer.add_int32("x.i32", -5)
    writer.add_float32("x.f32", 1.5)
    writer.add_bool("x.bool", True)
    writer.add_string("x.string", "héllo")
    writer.add_uint64("x.u64", 1 << 60)
    writer.add_int64("x.i64", -9)
    writer.add_float64("x.f64", 2.25)
    writer.add_array("x.strings", ["a", "", "ccc"])
    writer.add_array("x.ints", [1, 2, 3])
    writer.add_array("x.floats", [1.0, 2.5])
    writer.add_array("x.bools", [True, False])
    shapes = [(32,), (3, 8), (2, 1, 8), (2, 1, 2, 4), (1,), (7, 1), (1, 1, 16)]
    for i, shape in enumerate(shapes):
        kind = np.float16 if i % 2 else np.float32
        writer.add_tensor(f"blk.{i}.t", rng.standard_normal(shape).astype(kind))
    for name in formats:
        kind = gguf.GGMLQuantizationType[name]
        data = rng.integers(0, 60, (2, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        writer.add_tensor(f"q.{name}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def experts(path: Path) -> None:
    rng = np.random.default_rng(6)
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["one.txt", "two.txt"])
    writer.add_uint32("imatrix.chunk_count", 12)
    writer.add_uint32("imatrix.chunk_size", 512)
    counts = {
        "blk.0.ffn_up_exps.weight": [3, 0, 70000001, 512],
        "blk.0.attn_q.weight": [6144],
        "blk.1.zero": [0],
    }
    for name, count in counts.items():
        sums = (rng.standard_normal((len(count), 32)) ** 2 * 1000).astype(np.float32)
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", np.array(count, np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


HARNESS = r"""
#define main unused_main
#include "quantize.cpp"
#undef main
#include <map>
int main(int argc, char ** argv) {
    std::vector<std::string> sets;
    std::unordered_map<std::string, std::vector<float>> data;
    const int chunks = load_imatrix(argv[1], sets, data);
    std::map<std::string, std::vector<float>> sorted(data.begin(), data.end());
    uint64_t h = 0xcbf29ce484222325ull;
    auto eat = [&](const void * p, size_t n) {
        for (size_t i = 0; i < n; i++) { h = (h ^ ((const uint8_t *) p)[i]) * 0x100000001b3ull; }
    };
    for (auto & [name, v] : sorted) { eat(name.data(), name.size()); eat(v.data(), v.size()*sizeof(float)); }
    fprintf(stderr, "%zu %d %zu %016llx\n", sorted.size(), chunks, sets.size(), (unsigned long long) h);
}
"""


def run(*args: object) -> str:
    env = {**os.environ, "LD_LIBRARY_PATH": str(BUILD / "bin")}
    # The importance matrix records the text's path as it was given.
    words = [str(a) for a in args]
    done = subprocess.run(words, env=env, cwd=TEXT.parent, capture_output=True, text=True, check=True)
    return done.stderr


def main() -> None:
    tools = BUILD / "bin"
    plain = ("F32", "F16", "F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K")
    mixed(HERE / "mixed.gguf", [k.name for k in gguf.GGMLQuantizationType if k.name not in plain])
    mixed(HERE / "swapped.gguf", SWAPPABLE)
    shutil.copy(HERE / "swapped.gguf", HERE / "swapped.big.gguf")
    convert = [
        sys.executable,
        "-m",
        "gguf.scripts.gguf_convert_endian",
        str(HERE / "swapped.big.gguf"),
        "big",
    ]
    subprocess.run(convert, input="YES\n" * 3, text=True, check=True, capture_output=True)

    for old in HERE.glob("split-*.gguf"):
        old.unlink()
    run(tools / "llama-gguf-split", "--split-max-tensors", 12, HERE / "mixed.gguf", HERE / "split-t12")
    options = ("--no-tensor-first-split", "--split-max-size", "1M")
    run(tools / "llama-gguf-split", *options, HERE / "mixed.gguf", HERE / "split-s1")
    (HERE / "merged.gguf").unlink(missing_ok=True)
    first = sorted(HERE.glob("split-t12-00001-of-*"))[0]
    run(tools / "llama-gguf-split", "--merge", first, HERE / "merged.gguf")

    experts(HERE / "experts.gguf")
    measure = (tools / "llama-imatrix", "-m", MODEL, "-f", TEXT.name, "--chunks", 4, "-c", 128, "-b", 128)
    run(*measure, "-o", HERE / "imatrix.gguf")
    run(*measure, "--output-format", "dat", "-o", HERE / "imatrix.dat")
    program = HERE / "harness"
    (HERE / "harness.cpp").write_text(HARNESS)
    includes = [f"-I{SOURCE / part}" for part in ("tools/quantize", "common", "include", "ggml/include", "src")]
    libs = [f"-L{tools}", "-lllama-common", "-lllama", "-lggml", "-lggml-base"]
    subprocess.run(["g++", "-std=c++17", "-w", *includes, HERE / "harness.cpp", "-o", program, *libs], check=True)
    values = {}
    for name in ("experts.gguf", "imatrix.gguf", "imatrix.dat"):
        entries, chunks, datasets, digest = run(program, HERE / name).split()[-4:]
        values[name] = {
            "entries": int(entries),
            "chunks": int(chunks),
            "datasets": int(datasets),
            "fnv1a": digest,
        }
    (HERE / "imatrix.json").write_text(json.dumps(values, indent=2) + "\n")
    program.unlink()
    (HERE / "harness.cpp").unlink()


if __name__ == "__main__":
    main()
