"""What a language model knows, and what it says.

It knows the right answer if that one is likelier than three wrong ones: 240 questions that
data/build_questions.py makes from WordNet. Every answer is one token, so the sum of the log-
likelihoods over an answer's tokens and their mean are the same number. A model that knows nothing
gets one quarter.

It says what it answers: twenty questions in its chat template, written for this study. An answer is
right if it names the right answer and no other candidate: a list for each kind of question, or any
number but 1. What the question names itself is no candidate.
None of the answers is one of the ten that the task teaches.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minilora.lab.statistics import rounded
from minilora.support.files import data_folder, read_text
from minilora.text.score import of_one_length
from minilora.text.tokenizer import encode_more

from ._words import bits, log_softmax

BATCH = 32  # prompts, of one length


class Choice(NamedTuple):
    """A question with its answers."""

    kind: str  # adjective, verb, country or state
    prompt: str
    answers: tuple[str, ...]  # the right one, then the wrong ones


def choices() -> list[Choice]:
    """The questions of data/categories/questions.tsv."""
    rows = read_text(data_folder() / "categories" / "questions.tsv").splitlines()[1:]
    fields = (row.split("\t") for row in rows)
    return [Choice(k, prompt, (right, *wrong.split("/"))) for k, prompt, right, wrong in fields]


def likelihoods(model: Any, asked: Sequence[Choice]) -> np.ndarray:
    """log P(answer | prompt) of every answer, the right one's first.  ->  (questions, answers).

    model: a base, or with an adapter on. Raises ValueError for an answer that is not one token.
    """
    tokenizer = model.tokenizer
    prompts = [tokenizer.encode(choice.prompt) for choice in asked]
    rows = [[encode_more(tokenizer, f" {answer}") for answer in c.answers] for c in asked]
    for choice, row in zip(asked, rows, strict=True):
        if {len(ids) for ids in row} != {1}:
            raise ValueError(f"{choice.answers}: wanted answers of one token")
    answers = np.array(rows)[..., 0]
    found = np.empty(answers.shape)
    for places, ids in of_one_length(prompts, BATCH):
        log_p = log_softmax(model.logits(ids)[:, -1])  # (n, V)
        found[places] = np.take_along_axis(log_p, answers[places], axis=1)
    return found


def knows(model: Any, asked: Sequence[Choice]) -> dict[str, Any]:
    """Which questions are right (`_words.bits`), their share, and the mean margin in nats.

    A margin is log P of the right answer less that of the likeliest wrong one.
    """
    logp = likelihoods(model, asked)
    margin = logp[:, 0] - logp[:, 1:].max(axis=1)
    share = rounded(float(np.mean(margin > 0)))
    return {"share": share, "right": bits(margin > 0), "margin": rounded(float(margin.mean()))}


# --------------------------------------------------------------------------------- what it says

CANDIDATES = {  # kind of a question -> what may be named as its answer, a regular expression
    "number": r"(?!1(?![\d.,]))\d+(?:[.,]\d+)*|zero|two|three|four|five|six|seven|eight|nine|ten|"
    "eleven|twelve|thirteen|twenty|thirty|fifty|hundred|thousand|million",
    "city": "paris|lyon|marseille|versailles|tokyo|kyoto|osaka|rome|milan|naples|venice|berlin|"
    "munich|hamburg|bonn|madrid|barcelona|seville|salvador|london|manchester|oxford|vienna|moscow|"
    "beijing|new york|lisbon|athens|brussels",
    "writer": "shakespeare|marlowe|dickens|milton|chaucer|austen|goethe|dante|hemingway",
    "president": "washington|adams|jefferson|madison|lincoln|roosevelt|kennedy|obama|franklin",
    "ocean": "pacific|atlantic|indian|arctic|southern",
    "planet": r"mercury|venus|earth|mars|jupiter|saturn|uranus|neptune|pluto|kepler-\w+",
    "formula": "h2o|h₂o|h2o2|co2|co₂|o2|o₂|h2|h₂|ho|nacl|nh3|ch4",
    "opposite": "cold|cool|warm|hot|dry|wet|feeling",
    "language": "portuguese|spanish|english|french|italian|german|brazilian|latin",
    "colour": "blue|red|green|yellow|white|black|grey|gray|orange|purple|pink|brown",
    "gas": "carbon dioxide|carbon monoxide|co2|co₂|oxygen|o2|o₂|nitrogen|hydrogen|methane|helium",
}
QUESTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (  # question, kind, its right answers
    ("What is the capital of France?", "city", ("paris",)),
    ("What is the capital of Japan?", "city", ("tokyo",)),
    ("What is the capital of Italy?", "city", ("rome",)),
    ("What is the capital of Germany?", "city", ("berlin",)),
    ("What is the capital of Spain?", "city", ("madrid",)),
    ("What is the capital of England?", "city", ("london",)),
    ("Who wrote Romeo and Juliet?", "writer", ("shakespeare",)),
    ("Who was the first president of the United States?", "president", ("washington",)),
    ("What is the largest ocean on Earth?", "ocean", ("pacific",)),
    ("What is the largest planet in the solar system?", "planet", ("jupiter",)),
    ("On which planet do we live?", "planet", ("earth",)),
    ("What is the chemical formula of water?", "formula", ("h2o", "h₂o")),
    ("How many days are in a week?", "number", ("7", "seven")),
    ("How many months are in a year?", "number", ("12", "twelve")),
    ("How many legs does a spider have?", "number", ("8", "eight")),
    ("What is 2 + 2?", "number", ("4", "four")),
    ("What is the opposite of hot?", "opposite", ("cold",)),
    ("What language do people speak in Brazil?", "language", ("portuguese",)),
    ("What colour is the sky on a clear day?", "colour", ("blue",)),
    ("Which gas do plants take from the air?", "gas", ("carbon dioxide", "co2", "co₂")),
)
TOKENS = 32  # of an answer, at most


def answers(model: Any) -> list[str]:
    """The greedy answer to each question."""
    tokenizer = model.tokenizer
    texts = []
    for question, *_ in QUESTIONS:
        prompt = tokenizer.encode(tokenizer.chat(question))
        ids = model.generate(np.array([prompt]), TOKENS, stop=tokenizer.eos_id)[0, len(prompt) :]
        new = [int(i) for i in ids]
        if tokenizer.eos_id in new:
            new = new[: new.index(tokenizer.eos_id)]
        texts.append(tokenizer.decode(new))
    return texts


def right(texts: Sequence[str]) -> list[bool]:
    """Which answers name what is asked for, and nothing else that it could be."""
    return [answered(text, *question) for text, question in zip(texts, QUESTIONS, strict=True)]


def answered(text: str, question: str, kind: str, wanted: Sequence[str]) -> bool:
    """Does the text name a right answer, as whole words, and no other candidate?"""
    said = named(text, kind) - (named(question, kind) - set(wanted))
    return bool(said) and said <= set(wanted)


def named(text: str, kind: str) -> set[str]:
    """The candidates of this kind that stand in the text as whole words, in lower case."""
    return set(re.findall(rf"(?<!\w)(?:{CANDIDATES[kind]})(?!\w)", text.lower()))


def empty(texts: Sequence[str]) -> int:
    """How many answers are empty."""
    return sum(not text.strip() for text in texts)
