"""What someone who knows PEFT and Jupyter reaches for first: summaries, text in and text out."""

import re
import typing
from xml.etree import ElementTree

import pytest

import minilora as ml
from minilora.methods import Technique
from minilora.tuning.history import History


@pytest.fixture(scope="module")
def model():
    return ml.load_model("base")


def test_parameters_are_counted_as_in_peft(model):
    """PEFT 0.21 on the same base: LoRA of rank 4 and VeRA of rank 256 on q_proj and v_proj."""
    for method, rank, said in (
        ("lora", 4, (7_168, 728_064)),
        ("vera", 256, (2_816, 723_712)),
        ("full", None, (720_896, 720_896)),
    ):
        how = {"rank": rank} if rank else {}
        assert ml.attach(model, method, **how).count_parameters() == said


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
    ElementTree.fromstring(f"<div>{page}</div>")
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


def test_types_name_every_technique():
    hints = typing.get_type_hints(ml.attach)
    assert typing.get_args(Technique) == tuple(ml.METHODS)
    assert Technique in typing.get_args(hints["method"])
    for name in ("rank", "alpha", "targets", "method"):
        assert typing.Any not in typing.get_args(hints[name]), name
    assert re.search("constant.*linear.*cosine", str(typing.get_type_hints(ml.train)["schedule"]))
