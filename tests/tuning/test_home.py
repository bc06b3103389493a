"""What someone who knows PEFT and Jupyter reaches for first: summaries, text in and text out."""

import re
import typing
from html.parser import HTMLParser

import numpy as np
import pytest

import minilora as ml
from minilora.methods import Technique
from minilora.tuning.history import History


@pytest.fixture(scope="module")
def model():
    return ml.load_model("base")


def test_print_trainable_parameters_is_peft_s_sentence(model, capsys):
    """PEFT 0.21 on the same base: LoRA of rank 4 and VeRA of rank 256 on q_proj and v_proj."""
    for method, rank, said in (
        ("lora", 4, "trainable params: 7,168 || all params: 728,064 || trainable%: 0.9845"),
        ("vera", 256, "trainable params: 2,816 || all params: 723,712 || trainable%: 0.3891"),
        ("full", None, "trainable params: 720,896 || all params: 720,896 || trainable%: 100.0000"),
    ):
        how = {"rank": rank} if rank else {}
        ml.attach(model, method, **how).print_trainable_parameters()
        assert capsys.readouterr().out == f"{said}\n"


def test_delta_lora_s_copies_are_not_counted_twice(model):
    lora, delta = (ml.attach(model, name, rank=4) for name in ("lora", "delta_lora"))
    ids = [[1, 2, 3]]
    ml.train(delta, [(ids, ids)], steps=2, lr=0.01)
    assert delta.count_parameters() == lora.count_parameters()


def objects(model):
    tuned = ml.attach(model, "lora", rank=4)
    library = ml.Library(model)
    library.add("past", tuned)
    library.use("past")
    return {
        "Llama base": (model, ["720,896", "2.75 MiB of float32"]),
        "LoRA on Llama base": (tuned, ["q_proj, v_proj", "7,168 of 728,064", "28.0 KiB"]),
        "Full fine-tuning on": (ml.attach(model, "full"), ["720,896 of 720,896"]),
        "Library on Llama base": (library, ["past", "LoRA (active)"]),
        "Ledger": (ml.ledger(tuned, 8, 16), ["2.78 MiB", "28.0 KiB", "56.0 KiB", "peak"]),
        "History": (History([3.0, 1.5], [0.1, 0.1], [0.2, 0.3], [(2, 0.5)]), ["3.0000 -> 1.5000"]),
    }


@pytest.mark.parametrize("title", ["Llama base", "LoRA on", "Full", "Library", "Ledger", "History"])
def test_summaries(model, title):
    """A line at a prompt; in a notebook a table, its elements all closed."""
    name, (shown, says) = next(i for i in objects(model).items() if i[0].startswith(title))
    line, page = repr(shown), shown._repr_html_()
    assert name in line and "\n" not in line and len(line) < 250
    depth = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            depth.append(tag)

        def handle_endtag(self, tag):
            while depth.pop() != tag:
                assert tag == "svg"

    Reader().feed(page)
    assert not depth
    for part in says:
        assert part in line and part.replace(">", "&gt;") in page
    assert ("<svg" in page) == (title == "History")


def test_a_summary_hides_no_script(model):
    other = ml.Llama(model.config, model.params)
    other.name = "<script>"
    assert "<script>" not in other._repr_html_()
    assert "<svg" not in History([1.0], [0.1], [0.1])._repr_html_()


def test_text_in_and_text_out(model, capsys):
    words = ml.load_task("third").test
    prompt, answers = words[0]
    assert model.generate_text(prompt) in answers
    tuned = ml.attach(model, "lora", rank=2)
    library = ml.Library(model)
    for other in (tuned, library):
        assert other.generate_text(prompt) == model.generate_text(prompt)
    assert len(model.generate_text(prompt, 2)) == 2
    with pytest.raises(ValueError, match="prompt is '', wanted some text"):
        model.generate_text("")
    with pytest.raises(ValueError, match="no tokenizer"):
        ml.Llama(model.config, model.params).generate_text("a")


def test_a_tokenizer_is_called_as_in_transformers(model):
    tokenizer = model.tokenizer
    assert tokenizer("walk") == {"input_ids": tokenizer.encode("walk")}
    assert tokenizer(["a", "be"])["input_ids"] == [tokenizer.encode("a"), tokenizer.encode("be")]
    assert model.logits(np.array([tokenizer("walk")["input_ids"]])).shape[1] == 4


def test_types_name_every_technique():
    hints = typing.get_type_hints(ml.attach)
    assert typing.get_args(Technique) == tuple(ml.METHODS)
    assert Technique in typing.get_args(hints["method"])
    for name in ("rank", "alpha", "targets", "method"):
        assert typing.Any not in typing.get_args(hints[name]), name
    assert re.search("constant.*linear.*cosine", str(typing.get_type_hints(ml.train)["schedule"]))
