"""What a stranger's text may do to a terminal: be read."""

import json
import sys

import pytest

from minilora.cli import main
from minilora.support.terminal import Printable, printable

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
    from conftest import make_llama

    import minilora as ml
    from minilora.text.tokenizer import CharTokenizer

    tokenizer = CharTokenizer(("<pad>", "\n", "a", "\x1b", "\r", "\x9b", "\u202e"))
    model = make_llama(vocab_size=7, tokenizer=tokenizer)
    model.params["model.embed_tokens.weight"][:3] = 0
    ml.save_model(model, tmp_path)
    assert main(["generate", "--base", str(tmp_path), "--prompt", "a\x1b\r\x9b"]) == 0
    said = capsys.readouterr().out
    assert only_text(said) and "\\" in said
