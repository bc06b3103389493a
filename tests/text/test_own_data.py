"""A user's own data: its forms, the chat template, rows that are too long or empty."""

import json
import warnings
from argparse import Namespace

import numpy as np
import pytest
from conftest import make_llama
from test_chats import CHAT, START, STOP, tokenizer  # noqa: F401  (a fixture)

import minilora as ml
from minilora.commands import own_data
from minilora.commands.text import _prompt
from minilora.text.encode import encode
from minilora.text.record_forms import Chat, Text
from minilora.text.tokenizer import WORD_LAB

SYSTEM = {"role": "system", "content": "be short"}


def written(tmp_path, records, name="own.jsonl"):
    path = tmp_path / name
    if name.endswith("jsonl"):
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        path.write_text(json.dumps(records))
    return path


# ---------------------------------------- forms

SHAREGPT = [
    {"from": "system", "value": "be short"},
    {"from": "human", "value": "one"},
    {"from": "gpt", "value": "two"},
]
FORMS = [
    ({"prompt": "a", "completion": "b", "id": 3}, ("a", "b")),
    ({"instruction": "say", "input": "x", "output": "y", "text": "z"}, ("say\n\nx\n", "y")),
    ({"instruction": "say", "input": "", "output": "y"}, ("say\n", "y")),
    ({"instruction": "say", "input": None, "output": "y"}, ("say\n", "y")),
    ({"instruction": "say", "output": "y"}, ("say\n", "y")),
    ({"messages": CHAT, "prompt": "one"}, Chat(tuple(CHAT))),
    (
        {"conversations": SHAREGPT},
        Chat((SYSTEM, {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"})),
    ),
    ({"text": "once"}, Text("once")),
]


@pytest.mark.parametrize("name", ["own.jsonl", "own.json"])
@pytest.mark.parametrize("record, wanted", FORMS)
def test_the_names_say_the_form(tmp_path, record, wanted, name):
    assert ml.read_pairs(written(tmp_path, [record], name)) == [wanted]


def test_spreadsheets_have_alpaca_s_names_too(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("instruction,input,output\nsay,x,y\nsay,,y\n")
    assert ml.read_pairs(path) == [("say\n\nx\n", "y"), ("say\n", "y")]


def test_named_columns_that_drop_the_input_are_told(tmp_path):
    path = written(tmp_path, [{"instruction": "say", "input": "x", "output": "y"}])
    with pytest.warns(UserWarning, match="input is not read; without named columns"):
        assert ml.read_pairs(path, "instruction", "output") == [("say", "y")]


def test_records_with_nothing_to_learn_are_counted(tmp_path):
    asked = [{"role": "user", "content": "one"}]
    silent = [*asked, {"role": "assistant", "content": " "}]
    empty = [{"prompt": "a", "completion": ""}, {"prompt": "a", "completion": None}]
    empty += [{"text": " \n"}, {"messages": asked}, {"messages": silent}]
    path = written(tmp_path, [{"prompt": "a", "completion": "b"}, *empty])
    with pytest.warns(UserWarning, match="of 6 records: 5 left out as empty, the first is line 2"):
        assert ml.read_pairs(path) == [("a", "b")]


# ---------------------------------------- chats


def test_pairs_go_through_the_template(tokenizer):  # noqa: F811
    """The prompt is what generate writes, and the loss is on the answer and its end alone."""
    pair = ("one\n", " two")
    ((ids, targets),) = ml.batches([pair], tokenizer, 1, chat=True, system="be short")
    prompt = tokenizer.chat([SYSTEM, {"role": "user", "content": "one"}])
    assert tokenizer.encode(f"{prompt}two{STOP}") == ids[0].tolist()
    counted = targets[0][targets[0] != -100].tolist()
    assert counted == tokenizer.encode(f"two{STOP}")
    system = f"{START}system\nbe short{STOP}\n"
    assert prompt.startswith(system) and prompt.count(START) == 3


def test_a_model_is_asked_as_it_was_trained(tokenizer):  # noqa: F811
    shape = dict(vocab_size=tokenizer.vocab_size, hidden_size=32, tokenizer=tokenizer)
    tuned = ml.attach(make_llama(dtype=np.float32, **shape), "full")
    how = dict(chat=True, system="be short")
    pairs = [("one", "two"), ("three", "four!")]
    ml.train(tuned, ml.batches(pairs, tokenizer, 2, **how), steps=60, lr=1e-2)
    assert ml.exact_match(tuned, pairs, **how) == 1.0 != ml.exact_match(tuned, pairs)


def test_a_conversation_keeps_its_own_system(tokenizer):  # noqa: F811
    own, given = Chat((SYSTEM, *CHAT)), Chat(({**SYSTEM, "content": "x"}, *CHAT))
    for chat, wanted in ((own, own), (Chat(tuple(CHAT)), given)):
        assert encode([chat], tokenizer, system="x") == encode([wanted], tokenizer)


def test_a_template_that_is_not_used_is_told_once(tokenizer):  # noqa: F811
    pairs = [("one", "two"), ("three", "four")]
    with pytest.warns(UserWarning, match="the base has a chat template") as told:
        ml.batches(pairs, tokenizer, 1, epochs=2)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ml.batches(pairs, tokenizer, 1, chat=False)
        ml.batches([Chat(tuple(CHAT)), Text("once")], tokenizer, 1)
        ml.batches(pairs, WORD_LAB, 1)


def test_a_chat_wants_a_template():
    with pytest.raises(ValueError, match="chat: the base's tokenizer has no chat template"):
        ml.batches([("a", "b")], WORD_LAB, 1, chat=True)
    with pytest.raises(ValueError, match="system: wanted chat too"):
        ml.batches([("a", "b")], WORD_LAB, 1, system="x")


# ---------------------------------------- lengths

LONG = [("Da>", "b"), ("Da>", "abcdef"), ("Dabcdef>", "a"), ("Dab>", "cd")]  # 4, 9, 9 and 6 tokens


@pytest.mark.parametrize(
    "too_long, left, said",
    [
        ("cut", 3, "2 longer than 6 tokens .cut there., 1 with nothing to learn"),
        ("skip", 2, "2 longer than 6 tokens .left out.$"),
    ],
)
def test_what_is_too_long_is_cut_or_left_out_and_counted(too_long, left, said):
    with pytest.warns(UserWarning, match=f"of 4 rows: {said}"):
        rows = encode(LONG, WORD_LAB, max_length=6, too_long=too_long)
    assert len(rows) == left
    whole = encode(LONG, WORD_LAB)
    assert rows[0] == whole[0] and rows[-1] == whole[-1]
    if too_long == "cut":
        assert rows[1].ids == whole[1].ids[:6] and rows[1].targets == whole[1].targets[:6]


def test_no_row_left_is_an_error():
    with pytest.raises(ValueError, match=r"of 4 rows: 4 longer than 2 tokens .*; none is left"):
        ml.batches(LONG, WORD_LAB, 1, max_length=2, too_long="skip")
    with pytest.raises(ValueError, match="max_length is 0, wanted a whole number of at least 1"):
        ml.batches(LONG, WORD_LAB, 1, max_length=0)
    with pytest.raises(ValueError, match="unknown too_long 'drop'; wanted one of: cut, skip"):
        ml.batches(LONG, WORD_LAB, 1, too_long="drop")


def test_a_text_is_learned_from_its_second_token_on():
    ((ids, targets),) = ml.batches([Text("abc")], WORD_LAB, 1)
    assert [*ids[0], WORD_LAB.eos_id] == [ids[0][0], *targets[0]] == WORD_LAB.encode("abc\n")


# ---------------------------------------- generate


def test_generate_writes_the_prompt_as_the_adapter_was_trained(tokenizer, tmp_path):  # noqa: F811
    """run.toml says how; --no-chat, --chat and --system count more."""
    (tmp_path / "run.toml").write_text('chat = true\nsystem = "be short"\n')
    asked = [SYSTEM, {"role": "user", "content": "one"}]
    trained = {"base": "x", "prompt": "one", "task": None, "adapter": tmp_path}
    for chat, system, wanted in (
        (None, None, tokenizer.chat(asked)),
        (None, "x", tokenizer.chat([{**SYSTEM, "content": "x"}, asked[1]])),
        (False, None, "one"),
    ):
        assert _prompt(Namespace(**trained, chat=chat, system=system), tokenizer) == wanted
    fresh = {**trained, "adapter": None}
    assert _prompt(Namespace(**fresh, chat=None, system=None), tokenizer) == "one"
    assert _prompt(Namespace(**fresh, chat=True, system=None), tokenizer) == tokenizer.chat("one")
    with pytest.raises(ValueError, match="--system: wanted --chat too"):
        _prompt(Namespace(**fresh, chat=None, system="x"), tokenizer)


def test_conversations_are_asked_in_the_chat_template(tokenizer, tmp_path):  # noqa: F811
    """It is known that the template was used, though nobody said --chat."""
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n", encoding="utf-8")
    base = make_llama(dtype=np.float32, vocab_size=tokenizer.vocab_size, tokenizer=tokenizer)
    a = Namespace(data=path, task=None, eval=None, columns=None, chat=None, system=None)
    a.max_length, a.too_long = None, "cut"
    assert own_data.read(a, base).chat
    path.write_text('{"prompt": "a", "completion": "b"}', encoding="utf-8")
    a.chat = False
    assert not own_data.read(a, base).chat
    (tmp_path / "run.toml").write_text("chat = true\n")
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(b"")
    for adapter in (tmp_path, checkpoint):
        asked = Namespace(prompt="Hi", task=None, adapter=adapter, chat=None, system=None)
        assert _prompt(asked, tokenizer) == tokenizer.chat("Hi")


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.csv", "prompt,completion\na,b\nc\n", "line 3: fewer cells than columns, no completion"),
        ("a.json", '{\n "data": []\n}\n', "record 1: its names are data, wanted prompt"),
        ("a.jsonl", '{\n "data": []\n}\n', "record 1: its names are data, wanted prompt"),
        (
            "a.jsonl",
            '{"conversations": [{"from": "me", "value": "a"}, {"from": "it", "value": "b"}]}',
            "line 1: its roles are me, it; wanted some of assistant, human, gpt, chatgpt, bot",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        ml.read_pairs(tmp_path / name)


def test_one_object_on_several_lines_and_other_names_of_the_assistant(tmp_path):
    turns = [{"from": "human", "value": "a"}, {"from": "bot", "value": "b"}]
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"conversations": turns}, indent=1), encoding="utf-8")
    (chat,) = ml.read_pairs(path)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]
