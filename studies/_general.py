"""Twenty questions of general knowledge, asked of a language model in its chat template, with the
answers that count. They were written for this study. None of the answers is one of the ten that the
task teaches.
"""

from typing import Any

import numpy as np

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", ("paris",)),
    ("What is the capital of Japan?", ("tokyo",)),
    ("What is the capital of Italy?", ("rome",)),
    ("What is the capital of Germany?", ("berlin",)),
    ("What is the capital of Spain?", ("madrid",)),
    ("What is the capital of England?", ("london",)),
    ("Who wrote Romeo and Juliet?", ("shakespeare",)),
    ("Who was the first president of the United States?", ("washington",)),
    ("What is the largest ocean on Earth?", ("pacific",)),
    ("What is the largest planet in the solar system?", ("jupiter",)),
    ("On which planet do we live?", ("earth",)),
    ("What is the chemical formula of water?", ("h2o", "h₂o")),
    ("How many days are in a week?", ("7", "seven")),
    ("How many months are in a year?", ("12", "twelve")),
    ("How many legs does a spider have?", ("8", "eight")),
    ("What is 2 + 2?", ("4", "four")),
    ("What is the opposite of hot?", ("cold",)),
    ("What language do people speak in Brazil?", ("portuguese",)),
    ("What colour is the sky on a clear day?", ("blue",)),
    ("Which gas do plants take from the air?", ("carbon dioxide", "co2", "co₂")),
)
TOKENS = 32  # of an answer, at most


def answers(model: Any) -> list[str]:
    """The greedy answer to each question."""
    tokenizer = getattr(model, "base", model).tokenizer
    texts = []
    for question, _ in QUESTIONS:
        prompt = tokenizer.encode(tokenizer.chat(question))
        ids = model.generate(np.array([prompt]), TOKENS, stop=tokenizer.eos_id)[0, len(prompt) :]
        new = [int(i) for i in ids]
        if tokenizer.eos_id in new:
            new = new[: new.index(tokenizer.eos_id)]
        texts.append(tokenizer.decode(new))
    return texts


def right(texts: list[str]) -> list[bool]:
    """Which answers name what is asked for."""
    return [
        any(word in text.lower() for word in wanted)
        for text, (_, wanted) in zip(texts, QUESTIONS, strict=True)
    ]
