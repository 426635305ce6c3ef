"""Options of the command line against files that llama-quantize wrote (`tests/data/options/make.py`)."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ggquant as gg
from ggquant.cli import COMMANDS, command_line

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "options" / "digests.json").read_text("utf-8"))


def run(*words: object) -> Any:
    return CliRunner().invoke(command_line(COMMANDS), ["quantize", *map(str, words)])


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "w.gguf"
    gg.convert(DATA / "tinylm", path, "BF16")
    return path


@pytest.fixture(scope="session")
def shards(whole: Path) -> list[Path]:
    return [Path(p) for p in gg.split(whole, whole.with_name("w"), max_tensors=7)]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: " ".join(case["before"] + case["after"]))
def test_files_are_those_of_llama_quantize(
    case: dict[str, Any], whole: Path, shards: list[Path], tmp_path: Path
) -> None:
    source = shards[0] if "--keep-split" in case["before"] else whole
    result = run("--quiet", *case["before"], source, tmp_path / "out.gguf", *case["after"])
    assert result.exit_code == 0, result.output
    made = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    assert made == case["files"]


def test_keep_split_needs_shards(tmp_path: Path) -> None:
    with pytest.raises(gg.UsageError, match="only GGUF files have shards"):
        gg.convert(DATA / "tinylm", tmp_path / "x.gguf", "Q8_0", options=gg.Options(keep_split=True))


def test_a_shard_left_empty_is_refused(shards: list[Path], tmp_path: Path) -> None:
    options = gg.Options(keep_split=True, prune_layers=(1, 2))
    with pytest.raises(gg.UsageError, match="leaves a shard empty"):
        gg.convert(shards[0], tmp_path / "x.gguf", "Q8_0", options=options)
    assert list(tmp_path.iterdir()) == []


def test_several_variants_of_one_reading(whole: Path, tmp_path: Path) -> None:
    report = gg.convert(whole, tmp_path / "a.gguf", "Q4_K_M", also={"F16": tmp_path / "b.gguf", "Q2_K": tmp_path / "c"})
    assert list(report.also) == ["F16", "Q2_K"]
    for variant, path in (("Q4_K_M", report.path), *((v, r.path) for v, r in report.also.items())):
        alone = gg.convert(whole, tmp_path / "alone", variant, overwrite=True)
        assert path.read_bytes() == alone.path.read_bytes()
        assert path.stat().st_size == alone.total_bytes


def test_several_variants_need_several_files(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(gg.Error, match="two outputs"):
        gg.convert(whole, tmp_path / "a", "Q4_K_M", also={"F16": tmp_path / "a"})
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_makes_the_file_again(whole: Path, tmp_path: Path) -> None:
    words = ["--quiet", "--tensor-type", "ffn_down=q8_0", "--output-tensor-type", "q5_0"]
    assert run(*words, "--write-recipe", tmp_path / "r", whole, tmp_path / "a", "Q4_K_M").exit_code == 0
    assert run("--quiet", "--recipe", tmp_path / "r", whole, tmp_path / "b", "Q4_K_M").exit_code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    plain = gg.convert(whole, tmp_path / "c", "Q4_K_M")
    assert plain.path.read_bytes() != (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [("attn_q", "line 2"), ("attn_q = q9_z", "line 2"), ("_norm = q8_0", "stays F32"), ("( = q8_0", "line 2")],
)
def test_a_wrong_recipe_is_refused(line: str, message: str, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "r").write_text(f"# comment\n{line}\n", "utf-8")
    result = run("--recipe", tmp_path / "r", whole, tmp_path / "a", "Q4_K_M")
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "a").exists()


def test_the_manifest_names_the_inputs(shards: list[Path], tmp_path: Path) -> None:
    assert run("--quiet", "--manifest", shards[0], tmp_path / "a.gguf", "Q4_K_M").exit_code == 0
    content = json.loads((tmp_path / "a.gguf.json").read_text("utf-8"))
    assert content["variant"] == "Q4_K_M"
    assert content["ggquant"] == gg.__version__
    assert {entry["file"]: entry["sha256"] for entry in content["inputs"]} == {
        str(shard): hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards
    }
    assert len(content["recipe"]) == len(gg.open(tmp_path / "a.gguf").tensors)


def test_a_json_plan_is_all_there_is_on_standard_output(whole: Path) -> None:
    result = run("--dry-run", "--json", "--quiet", whole, "Q4_K_M")
    content = json.loads(result.stdout)
    assert list(content) == ["tensors", "total_bytes", "bits_per_weight"]
    assert all(list(t) == ["name", "shape", "from", "to", "bytes", "why"] for t in content["tensors"])
    assert content["total_bytes"] == sum(t["bytes"] for t in content["tensors"])


def test_a_recipe_holds_for_all_variants(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "r").write_text("ffn_down = q8_0\n", "utf-8")
    words = ["--quiet", "--recipe", tmp_path / "r", "--also", f"Q2_K={tmp_path / 'b'}"]
    assert run(*words, whole, tmp_path / "a", "Q4_K_M").exit_code == 0
    for name in "ab":
        tensors = gg.open(tmp_path / name).tensors
        assert {t.format for n, t in tensors.items() if "ffn_down" in n} == {"Q8_0"}
        assert len({t.format for t in tensors.values()}) > 2


def test_texts_beside_the_output_are_not_replaced_by_accident(whole: Path, tmp_path: Path) -> None:
    for option, text in ((["--manifest"], "a.gguf.json"), (["--write-recipe", tmp_path / "r"], "r")):
        (tmp_path / text).write_text("theirs", "utf-8")
        words = ["--quiet", *option, whole, tmp_path / "a.gguf", "Q4_K_M"]
        result = run(*words)
        assert result.exit_code == 1
        assert f"{text}: it exists already" in result.output
        assert (tmp_path / text).read_text("utf-8") == "theirs"
        assert not (tmp_path / "a.gguf").exists()
        assert run("--overwrite", *words).exit_code == 0
        assert (tmp_path / text).read_text("utf-8") != "theirs"
        (tmp_path / "a.gguf").unlink()


def test_a_manifest_does_not_take_the_place_of_an_input(tmp_path: Path) -> None:
    source = Path(shutil.copytree(DATA / "tinylm", tmp_path / "m"))
    result = run("--overwrite", "--manifest", source, source / "config", "Q4_K_M")
    assert result.exit_code == 2
    assert "input" in result.output
    assert (source / "config.json").read_bytes() == (DATA / "tinylm" / "config.json").read_bytes()
