"""The command line: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from ggquant.cli import main
from ggquant.cli.text import layers, parse_size, printable, size

TINYLM = Path(__file__).parents[1] / "data" / "tinylm"


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ggquant", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return Outcome(int(left.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tinylm.gguf"
    gg.convert(TINYLM, path, "Q8_0")
    return path


def assert_one_line_error(outcome: Outcome, code: int, *parts: str) -> None:
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith("ggquant: error: ")
    assert outcome.err.count("\n") == 1
    for part in parts:
        assert part in outcome.err


def test_quantize_writes_the_named_file_and_says_what_it_holds(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    outcome = run("quantize", TINYLM, target, "Q4_K_M")
    assert outcome.code == 0
    assert gg.open(target).tensors["blk.5.attn_v.weight"].format == "Q6_K"
    assert "blk.{0-1,3-4}.attn_v.weight" in outcome.out
    assert "57 tensors" in outcome.out
    assert "100%" in outcome.err, "progress goes to standard error"
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_the_default_name_is_that_of_llama_quantize(run: Run, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(TINYLM, checkpoint)
    assert run("quantize", checkpoint, "q8_0", "--quiet").code == 0
    assert (checkpoint / "ggml-model-Q8_0.gguf").exists()
    # A number means the first variant of llama-quantize's list that has it.
    assert run("quantize", checkpoint / "ggml-model-Q8_0.gguf", "15", "--quiet", "--allow-requantize").code == 0
    assert (checkpoint / "ggml-model-Q4_K.gguf").exists()


def test_quiet_says_nothing_but_warnings(run: Run, tmp_path: Path) -> None:
    outcome = run("quantize", TINYLM, tmp_path / "out.gguf", "Q8_0", "--quiet")
    assert outcome.out == ""
    assert all(line.startswith("ggquant: warning: ") for line in outcome.err.splitlines())


def test_dry_run_json_is_the_plan_and_nothing_else(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    outcome = run("quantize", TINYLM, target, "Q4_K_M", "--dry-run", "--json")
    assert outcome.code == 0 and not target.exists()
    plan = json.loads(outcome.out)
    assert list(plan) == ["tensors", "total_bytes", "bits_per_weight"]
    assert all(list(t) == ["name", "shape", "from", "to", "bytes", "why"] for t in plan["tensors"])
    gg.convert(TINYLM, target, "Q4_K_M")
    written = gg.open(target).tensors.values()
    assert [(t["name"], tuple(t["shape"]), t["to"], t["bytes"]) for t in plan["tensors"]] == [
        (t.name, t.shape, t.format, t.nbytes) for t in written
    ]


def test_a_dry_run_plans_what_needs_an_imatrix_and_warns(run: Run) -> None:
    outcome = run("quantize", TINYLM, "IQ2_XS", "--dry-run")
    assert outcome.code == 0
    assert "importance matrix" in outcome.err


def test_json_report(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    report = json.loads(run("quantize", TINYLM, target, "Q6_K", "--json").out)
    assert report["paths"] == [str(target)]
    assert report["isa"] == gg.isa()
    assert report["total_bytes"] == target.stat().st_size


def test_options_reach_the_plan(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    types = tmp_path / "types.txt"
    types.write_text("ffn_up=q5_0\nblk.0=iq4_nl")
    outcome = run(
        "quantize",
        "--tensor-type",
        "attn_q=q8_0",
        "--tensor-type-file",
        types,
        "--output-tensor-type",
        "f16",
        "--override-kv",
        "general.author=str:me",
        "--prune-layers",
        "4,5",
        TINYLM,
        target,
        "Q4_0",
        2,
    )
    assert outcome.code == 0
    made = gg.open(target)
    assert made.metadata["general.author"] == "me"
    assert made.metadata["llama.block_count"] == 4
    formats = {name: t.format for name, t in made.tensors.items()}
    assert formats["output.weight"] == "F16"
    assert formats["blk.0.attn_q.weight"] == "Q8_0"
    assert formats["blk.1.ffn_up.weight"] == "Q5_0"
    assert formats["blk.0.ffn_gate.weight"] == "IQ4_NL"
    assert formats["blk.1.ffn_gate.weight"] == "Q4_0"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["Q9_K"], "unknown variant 'Q9_K'"),
        (["out.gguf", "Q9_K"], "unknown variant 'Q9_K'"),
        (["Q4_0", "many"], "'many' is not a number of threads"),
        (["Q4_0", "0"], "'0' is not a number of threads"),
        (["Q4_0", "2", "3"], "too many arguments"),
        (["Q4_0", "--tensor-type", "attn_q"], "expected PATTERN=FORMAT"),
        (["Q4_0", "--tensor-type", "attn_q=q9"], "q9"),
        (["Q4_0", "--prune-layers", "1,x"], "'x' is not a layer number"),
        (["Q4_0", "--override-kv", "a=int:b"], "not a whole number"),
        (["Q4_0", "--override-kv", "a"], "expected KEY=TYPE:VALUE"),
        (["Q4_0", "--split-max-size", "4T"], "'4T' is not a size"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: list[str], part: str, run: Run) -> None:
    assert_one_line_error(run("quantize", TINYLM, *words), 2, part)


def test_an_unknown_option_exits_with_2(run: Run) -> None:
    outcome = run("quantize", TINYLM, "Q4_0", "--no-such-option")
    assert outcome.code == 2 and "--no-such-option" in outcome.err


def test_failures_exit_with_1_and_one_line(run: Run, tmp_path: Path) -> None:
    assert_one_line_error(run("quantize", tmp_path / "none", "Q4_0"), 1, "none")
    assert_one_line_error(run("inspect", tmp_path / "none.gguf"), 1, "none.gguf")
    (tmp_path / "text.gguf").write_text("not a model\n")
    assert_one_line_error(run("inspect", tmp_path / "text.gguf"), 1, "text.gguf")


def test_an_existing_output_is_kept_unless_overwriting(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"precious")
    outcome = run("quantize", TINYLM, target, "Q8_0", "--quiet")
    assert outcome.code == 1 and "out.gguf" in outcome.err
    assert target.read_bytes() == b"precious"
    assert run("quantize", TINYLM, target, "Q8_0", "--quiet", "--overwrite").code == 0
    assert len(gg.open(target).tensors) == 57


def test_debugging_shows_where_an_error_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGQUANT_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["ggquant", "inspect", str(tmp_path / "none")])
    with pytest.raises(gg.FileError):
        main()


def test_an_interruption_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gg, "convert", interrupted)
    assert_one_line_error(run("quantize", TINYLM, "Q4_0"), 130, "interrupted")


def test_a_defect_is_reported_as_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise AssertionError("two\nlines")

    monkeypatch.setattr(gg, "convert", broken)
    assert_one_line_error(run("quantize", TINYLM, "Q4_0"), 1, "AssertionError: two lines", "defect")


def test_inspect_json(run: Run, model: Path) -> None:
    shown = json.loads(run("inspect", model, "--json").out)
    opened = gg.open(model)
    assert shown["version"] == 3 and shown["alignment"] == 32
    assert shown["metadata"]["general.architecture"] == "llama"
    assert len(shown["metadata"]["tokenizer.ggml.tokens"]) == 4096
    assert [t["name"] for t in shown["tensors"]] == list(opened.tensors)
    assert "tensors" not in json.loads(run("inspect", model, "--json", "--metadata").out)
    assert "metadata" not in json.loads(run("inspect", model, "--json", "--tensors").out)


def test_names_from_a_file_do_not_reach_the_terminal_raw(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    with gg.GGUFWriter(path, {"general.name": "\x1b]0;owned\x07[bold]x[/bold]"}) as writer:
        writer.add("\x1b[31mred", np.zeros((1, 32), np.float32))
    shown = run("inspect", path).out
    assert "\x1b" not in shown and "\x07" not in shown
    assert "[bold]x[/bold]" in shown, "brackets are text, not markup"
    assert "\\x1b[31mred" in shown


def test_infinities_survive_json(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "infinite.gguf"
    with gg.GGUFWriter(path, {"a.b": float("inf"), "a.c": [1.0, float("nan")]}) as writer:
        writer.add("x", np.zeros((1, 32), np.float32))
    metadata = json.loads(run("inspect", path, "--json").out)["metadata"]
    assert metadata["a.b"] == "inf" and metadata["a.c"] == [1.0, "nan"]


def test_verify_finds_a_damaged_scale(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("verify", model).out == f"{model}: ok\n"
    damaged = tmp_path / "damaged.gguf"
    data = bytearray(model.read_bytes())
    tensor = gg.open(model).tensors["blk.2.ffn_up.weight"]
    # Row 1, block 3: an infinite f16 scale.
    at = tensor.offset + (256 // 32 + 3) * 34
    data[at : at + 2] = b"\x00\x7c"
    damaged.write_bytes(data)
    outcome = run("verify", damaged)
    assert outcome.code == 1
    assert "blk.2.ffn_up.weight" in outcome.out and outcome.out.count("\n") == 1
    (finding,) = json.loads(run("verify", damaged, "--json").out)["findings"]
    assert (finding["tensor"], finding["row"], finding["block"]) == ("blk.2.ffn_up.weight", 1, 3)


def test_split_and_merge(run: Run, model: Path, tmp_path: Path) -> None:
    outcome = run("split", model, tmp_path / "part", "--split-max-tensors", 20)
    assert outcome.code == 0
    shards = [tmp_path / f"part-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert outcome.out.splitlines() == list(map(str, shards))
    merged = tmp_path / "merged.gguf"
    assert run("merge", shards[1], merged).code == 0
    whole, again = gg.open(model).tensors, gg.open(merged).tensors
    assert list(whole) == list(again)
    for name, tensor in whole.items():
        assert np.array_equal(tensor.read(), again[name].read())


def test_split_takes_one_limit(run: Run, model: Path, tmp_path: Path) -> None:
    words = ("split", model, tmp_path / "part", "--split-max-tensors", 20, "--split-max-size", "1M")
    assert_one_line_error(run(*words), 2, "cannot be used together")


def test_variants(run: Run) -> None:
    everything = json.loads(run("variants", "--json").out)
    assert {"Q4_K_M", "IQ1_S", "COPY", "MXFP4_MOE"} <= {v["name"] for v in everything}
    assert "Q4_K_M" in run("variants").out
    explained = run("variants", "q4_k").out
    assert explained.startswith("Q4_K_M (also Q4_K)")
    assert "ffn_down" in explained and "When:" in explained
    assert_one_line_error(run("variants", "q9"), 2, "q9")


def test_variants_for_a_checkpoint(run: Run) -> None:
    words = ("variants", "q4_k_m", "--for", TINYLM, "--context", 100)
    (sized,) = json.loads(run(*words, "--json").out)
    plan = gg.plan(TINYLM, "Q4_K_M")
    assert sized["total_bytes"] == plan.total_bytes
    assert sized["bits_per_weight"] == plan.bits_per_weight
    # 6 layers, 2 key/value heads of 64, keys and values, 2 bytes each.
    assert sized["kv_cache_bytes"] == 100 * 6 * 2 * 64 * 2 * 2
    assert "for 100 tokens" in run(*words).out
    listed = {s["variant"]: s for s in json.loads(run("variants", "--for", TINYLM, "--json").out)}
    assert len(listed) == len(gg.variants())
    assert listed["IQ2_XS"]["needs_imatrix"] and not listed["Q2_K"]["needs_imatrix"]


def test_formats(run: Run) -> None:
    listed = json.loads(run("formats", "--json").out)
    assert [f["name"] for f in listed] == [f.name for f in gg.formats()]
    assert all(f.name in run("formats").out for f in gg.formats())


def test_version_names_the_instruction_set(run: Run) -> None:
    outcome = run("--version")
    assert outcome.code == 0
    assert outcome.out == f"ggquant {gg.__version__} (instruction set: {gg.isa()})\n"


def test_help_documents_the_exit_codes(run: Run) -> None:
    for words in (["--help"], ["quantize", "--help"], ["verify", "-h"]):
        text = " ".join(run(*words).out.split())
        assert "Exit codes: 0 done; 1 the work failed; 2 the command line is wrong; 130 interrupted" in text


def test_importing_the_package_imports_no_command_line() -> None:
    code = (
        "import sys, ggquant; "
        "print(sorted({'typer', 'rich', 'tokenizers', 'safetensors', 'yaml', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_closed_pipe_is_no_drama() -> None:
    command = [sys.executable, "-m", "ggquant", "formats"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_sizes() -> None:
    shown = [size(n) for n in (0, 999, 1000, 999_499, 999_500, 4_580_000_000, 10**19)]
    assert shown == ["0 bytes", "999 bytes", "1 kB", "999 kB", "1 MB", "4.58 GB", "10 EB"]
    assert parse_size("500M") == 500_000_000
    assert parse_size("4G") == 4_000_000_000
    assert parse_size(None) is None
    for wrong in ("", "4", "0M", "-1G", "1.5G", "4g", "4GB"):
        with pytest.raises(gg.UsageError):
            parse_size(wrong)


def test_layer_ranges() -> None:
    assert layers([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert layers([3]) == "3"
    assert printable("a\tb\x9bc\u200b\U000e0001") == "a\\tb\\x9bc\\u200b\\U000e0001"
