"""What calibration refuses, and what it says about statistics that are not complete."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from ggquant.calibration import Statistics, collect_imatrix, cut, default_text, read_statistics, read_texts
from ggquant.calibration.collect import Settings
from ggquant.calibration.report import find_gaps
from runtime_cases import RUNTIME_CASES
from tiny_checkpoints import write

ROOT = Path(__file__).resolve().parents[1]
TEXT = ROOT / "data/imatrix/text.txt"
TINYLM = ROOT / "data/tinylm"
CHAT = {"tokenizer.chat_template": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"}


def test_gaps_are_named() -> None:
    statistics = Statistics()
    row = np.array([1.0, 0.0, 2.0])
    for expert, tokens in ((0, 40), (1, 3)):
        statistics.add("blk.0.ffn_up_exps.weight", row, tokens, expert=expert, experts=3)
    statistics.add("blk.0.attn_q.weight", np.ones(3), 40)
    names = ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight", "blk.1.attn_q.weight"]
    unseen, few, missing, zero = find_gaps(statistics, names).lines()
    assert "1 of 3 experts got no token (2)" in unseen and "blk.0.ffn_up_exps.weight" in unseen
    assert "1 of 3 experts got fewer than 32 tokens (1)" in few
    assert missing == "tensor 'blk.1.attn_q.weight': no statistics"
    assert "1 columns of its input were always zero" in zero
    means = statistics.means()["blk.0.ffn_up_exps.weight"].reshape(3, 3)
    assert means[2].tolist() == [1, 1, 1]


def test_activations_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    folder = write(RUNTIME_CASES["qwen3"], tmp_path)
    model = gg.open(_converted(folder, tmp_path / "m.gguf"))
    with gg.GGUFWriter(tmp_path / "broken.gguf", model.metadata) as writer:
        for name, tensor in model.tensors.items():
            values = tensor.dequantize()
            if name == "blk.1.attn_norm.weight":
                values[3] = np.inf
            writer.add(name, values)
    with pytest.raises(gg.ImatrixError, match=r"blk\.1\.attn_q\.weight.*column 3 .* not finite"):
        collect_imatrix(tmp_path / "broken.gguf", [TEXT], settings=Settings(n_ctx=32, chunks=2))


def _converted(folder: Path, target: Path) -> Path:
    gg.convert(folder, target, "F32", pre="gpt-2")
    return target


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("too short", r"has only \d+ tokens, and chunks of 64 take at least 128")],
)
def test_texts_without_enough_tokens(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(gg.UsageError, match=message):
        collect_imatrix(TINYLM, [tmp_path / "t.txt"], settings=Settings(n_ctx=64))


def test_chunks_begin_with_bos_and_predictions_do_not() -> None:
    chunks = cut(range(1, 12), 4, bos=99)
    assert chunks.inputs.tolist() == [[99, 2, 3, 4], [99, 6, 7, 8]]
    assert chunks.tokens.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert cut(range(40), 4, bos=None, first=2, chunks=3).tokens[0].tolist() == [8, 9, 10, 11]
    with pytest.raises(gg.UsageError, match="left after 2 chunks"):
        cut(range(16), 4, bos=None, first=2)


def test_texts_from_files_lines_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "first"}) + "\n\n")
    (tmp_path / "image.png").write_bytes(b"\xff")
    found = read_texts([tmp_path])
    assert found.text == "first\nsecond" and [Path(n).name for n in found.names] == ["a.jsonl", "b.txt"]
    assert not found.has_special
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}))
    chat = read_texts([tmp_path / "chat.jsonl"], CHAT)
    assert chat.text == "<|user|>Hi\n<|assistant|>Ho\n" and chat.has_special


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "not UTF-8 text"),
        ("a.jsonl", b"{", "line 1: not JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"label": 1}', "line 2: need an object"),
        ("a.jsonl", b'{"messages": []}', "no chat template"),
    ],
)
def test_texts_that_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(gg.UsageError, match=message):
        read_texts([tmp_path / name])


def test_a_chat_template_cannot_reach_out_of_its_sandbox() -> None:
    from ggquant.calibration.chat import ChatTemplate

    template = ChatTemplate({"tokenizer.chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"})
    with pytest.raises(gg.UsageError, match="chat template fails"):
        template.render([], "line 1")


def test_the_default_text_is_long_enough_and_ascii_is_not_all_of_it() -> None:
    text = default_text()
    assert len(text.text) > 100_000 and text.names == ("ggquant:default.txt",)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    model = gg.open(_converted(write(RUNTIME_CASES["qwen3"], tmp_path), tmp_path / "m.gguf"))
    with gg.GGUFWriter(tmp_path / "small.gguf", model.metadata) as writer:
        for name, tensor in model.tensors.items():
            values = tensor.dequantize()
            writer.add(name, values[:20] if name in ("token_embd.weight", "output.weight") else values)
    with pytest.raises(gg.UsageError, match="do not belong together"):
        collect_imatrix(tmp_path / "small.gguf", [TEXT], settings=Settings(n_ctx=32))


@pytest.mark.parametrize("file", sorted((ROOT / "data/malformed/imatrix").iterdir()), ids=lambda p: p.name)
def test_damaged_files_are_refused_or_read_as_the_reader_reads_them(file: Path) -> None:
    try:
        statistics = read_statistics(file)
    except gg.Error as error:
        assert str(file) in str(error)
    else:
        for entry in statistics.entries.values():
            assert np.isfinite(entry.sums).all() and (entry.counts >= 0).all()
