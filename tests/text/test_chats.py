"""Conversations: the loss is on what the assistant says, and on nothing else."""

import json

import numpy as np
import pytest
from conftest import make_llama

import minilora as ml
from minilora.text.byte_pairs import BytePairTokenizer
from minilora.text.encode import question
from minilora.text.tokenizer import WORD_LAB

tokenizers = pytest.importorskip("tokenizers")

CHAT = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four!"},
]
START, STOP = "<|im_start|>", "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer():
    """A token a byte, and ChatML's two; with a system message of its own where it is asked for."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens([START, STOP])
    eos = inner.token_to_id(STOP)
    return BytePairTokenizer(inner, eos, eos, f"{START}{STOP}")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n")
    return path


def test_the_targets_are_the_assistant_s_turns(tokenizer, file):
    ((ids, targets),) = ml.batches(ml.read_pairs(file), tokenizer, 1)
    whole = "".join(f"{START}{m['role']}\n{m['content']}{STOP}\n" for m in CHAT)
    assert [*ids[0], tokenizer.encode("\n")[0]] == tokenizer.encode(whole)
    counted = targets[0][targets[0] != -100].tolist()
    assert counted == [*tokenizer.encode(f"two{STOP}"), *tokenizer.encode(f"four!{STOP}")]
    places = np.flatnonzero(targets[0] != -100)
    assert (targets[0][places] == np.append(ids[0], 0)[places + 1]).all()


def test_the_text_is_the_chat_template_s(tokenizer, file):
    """What generate is given for the last turn is what training showed before it."""
    (chat,) = ml.read_pairs(file)
    assert question(chat, tokenizer) == (tokenizer.chat(CHAT[:3]), ("four!",))


def test_a_model_learns_from_chats_and_is_scored_on_them(tokenizer, file, capsys):
    model = make_llama(
        dtype=np.float32, vocab_size=tokenizer.vocab_size, hidden_size=32, tokenizer=tokenizer
    )
    chats = ml.read_pairs(file)
    tuned = ml.attach(model, "full")
    history = ml.train(tuned, ml.batches(chats, tokenizer, 1), steps=60, lr=1e-2)
    assert history.losses[-1] < 0.1 < history.losses[0]
    assert ml.exact_match(tuned, chats) == 1.0


@pytest.mark.parametrize(
    "messages, said",
    [
        ([{"role": "user"}], r"no messages\[0\].content in it"),
        ([{"role": "assistant", "content": 3}], r"messages\[0\].content is 3, wanted a text"),
        (["hello"], r"messages\[0\] is 'hello', wanted an object"),
    ],
)
def test_wrong_conversations_name_the_line(tmp_path, messages, said):
    path = tmp_path / "chats.jsonl"
    path.write_text("\n" + json.dumps({"messages": messages}))
    with pytest.raises(ValueError, match=f"line 2: {said}"):
        ml.read_pairs(path)


def test_a_tokenizer_without_a_template_is_told(file):
    with pytest.raises(ValueError, match="no chat template, which messages need"):
        ml.batches(ml.read_pairs(file), WORD_LAB, 1)
