"""What a stranger's text may do to a terminal: be read."""

import json
import sys

import numpy as np
import pytest
from conftest import make_llama

import minilora as ml
from minilora.cli import main
from minilora.formats.safetensors import read_arrays, write_arrays
from minilora.support.terminal import Printable, printable
from minilora.tuning.storage import ABOUT, ARRAYS, CONFIG

RED = "\x1b[31m\x1b]0;title\x07\r\x9b2J\u202e"


def test_control_characters_are_written_out():
    assert printable("a\tb\nc é 日 👩‍💻") == "a\tb\nc é 日 👩‍💻"
    assert printable("\x1b[2J\r\x00\x7f\x9b") == r"\x1b[2J\r\x00\x7f\x9b"
    assert printable("\u202eabc\u2066") == r"\u202eabc\u2066"


def test_a_command_s_output_is_still_a_stream(capsys):
    """Who asks whether it is a terminal, or which characters it has, gets the stream's answer."""
    stream = Printable(sys.stdout)
    assert stream.isatty() == sys.stdout.isatty() and stream.encoding == sys.stdout.encoding
    print("a\x1b", file=stream, flush=True)
    assert capsys.readouterr().out == "a\\x1b\n"


def only_text(text):
    return text == printable(text)


@pytest.mark.parametrize(
    "line",
    [
        ["generate", "--base", f"no{RED}", "--prompt", "a"],
        ["report", f"no{RED}"],
        ["count", "--shape", f"no{RED}"],
        ["train", "--task", f"past{RED}"],
    ],
)
def test_errors(line, capsys):
    assert main(line) == 2
    error = capsys.readouterr().err
    assert only_text(error) and r"\x1b[31m" in error


def test_titles_of_results(tmp_path, capsys):
    from results import make_results

    results = make_results(only=["lora"])
    results["methods"]["lora"]["title"] = f"LoRA{RED}"
    results["rates"]["given"] = [RED]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert only_text(said.out) and r"LoRA\x1b[31m" in said.out and only_text(said.err)


def test_tokens_of_a_vocabulary(tmp_path, capsys):
    """A model all of whose tokens are escape sequences or the end."""
    from minilora.text.tokenizer import CharTokenizer

    tokenizer = CharTokenizer(("<pad>", "\n", "a", "\x1b", "\r", "\x9b", "\u202e"))
    model = make_llama(vocab_size=7, tokenizer=tokenizer)
    model.params["model.embed_tokens.weight"][:3] = 0
    ml.save_model(model, tmp_path)
    assert main(["generate", "--base", str(tmp_path), "--prompt", "a\x1b\r\x9b"]) == 0
    said = capsys.readouterr().out
    assert only_text(said) and "\\" in said


# ---- errors and warnings of the library itself, which a traceback prints as they are


def spoil_array(path):
    arrays, about = read_arrays(path)
    write_arrays(path, {**arrays, RED: np.ones(2, np.float32)}, about)


def spoil_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def spoil_own(path, **fields):
    arrays, about = read_arrays(path)
    own = json.loads(about[ABOUT]) | fields
    write_arrays(path, arrays, {**about, ABOUT: json.dumps(own)})


SPOILT = {
    "array of a base": lambda d: spoil_array(d / "base" / "model.safetensors"),
    "array of an adapter": lambda d: spoil_array(d / "adapter" / ARRAYS),
    "field of a config": lambda d: spoil_json(d / "adapter" / CONFIG, **{RED: 7}),
    "pattern": lambda d: spoil_json(d / "adapter" / CONFIG, rank_pattern={RED: "x"}),
    "rank of a pattern": lambda d: spoil_json(
        d / "adapter" / CONFIG, rank_pattern={"(\x1b)?q_proj": 0}
    ),
    "technique": lambda d: spoil_own(d / "adapter" / ARRAYS, method=RED),
    "fingerprint": lambda d: spoil_own(d / "adapter" / ARRAYS, base={"crc32": "\x1b[2J"}),
    "shard": lambda d: shards(d / "base", {"a": RED}),
    "array of a shard": lambda d: shards(d / "base", {RED: "one.safetensors"}),
    "tensor in GGUF": lambda d: (d / "x.gguf").write_bytes(
        (d / "x.gguf").read_bytes().replace(b"blk.1.ffn_down", b"\x1b[2J\x1b[31m_down")[:-64]
    ),
    "kind in safetensors": lambda d: write_arrays(
        d / "base" / "model.safetensors", {RED: np.ones(2, np.int64), "another": np.ones(2)}
    ),
}


def shards(folder, listed):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    names = read_arrays(folder / "one.safetensors")[0]
    index = json.dumps({"weight_map": dict.fromkeys(names, "one.safetensors") | listed})
    (folder / "model.safetensors.index.json").write_text(index)


@pytest.mark.parametrize("case", SPOILT)
def test_what_the_library_says_of_a_stranger_s_file(tmp_path, case, recwarn):
    model = make_llama(dtype=np.float32)
    ml.save_model(model, tmp_path / "base")
    ml.save_gguf(model, tmp_path / "x.gguf")
    ml.save_adapter(ml.attach(model, "lora", rank=2), tmp_path / "adapter")
    SPOILT[case](tmp_path)
    said = []
    for load in (
        lambda: ml.load_model(tmp_path / "base"),
        lambda: ml.load_model(tmp_path / "x.gguf"),
        lambda: ml.load_adapter(model, tmp_path / "adapter"),
    ):
        try:
            load()
        except (ValueError, OSError) as error:
            said.append(str(error))
    said += [str(warning.message) for warning in recwarn]
    assert any("\\x1b" in text for text in said), said
    assert all(only_text(text) for text in said), said
