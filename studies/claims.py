"""Every sentence that is claimed of the five techniques, and what stands against it: a study's
verdict, a definition, what is false as it is said, or why it cannot be tested here.

The verdicts of the studies are tests, and there are many of them. What is said of one technique is
a family, by the letter of its sentences; the p values of a family's tests, and of their parts, are
adjusted together by Holm's method, and a verdict whose adjusted p is above 0.05 becomes "cannot
tell". Questions that no sentence asks ("–") belong to LoRA's family.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from minilora.lab.cells import Record

from . import APART, ORDER, study
from ._question import Finding, Question, of_parts
from ._verdicts import UNKNOWN, holm

ERROR = 0.05  # of all verdicts of a family together
FAMILIES = "LFVDPQ"  # LoRA, LoRA-FA, VeRA, Delta-LoRA, LoRA+, QLoRA


SENTENCES = {  # what popular descriptions say of the techniques, in our words
    "G1": "Fine-tuning all weights takes massive computation and memory; these take little",
    "L1": "LoRA decomposes the weight W into A and B",
    "L2": "A and B are much smaller than W",
    "L3": "W stays untouched while A and B train",
    "L4": "The computational cost falls clearly below that of full fine-tuning",
    "L5": "Far fewer numbers train",
    "L6": "Far less memory is needed than for full fine-tuning",
    "L7": "A and B hold what belongs to the task; the model keeps its general knowledge",
    "L8": "The parameters of a task are swapped quickly, without retraining",
    "F1": "In LoRA-FA A is frozen after its initialisation; only B trains",
    "F2": "LoRA-FA needs less activation memory",
    "F3": "LoRA-FA's training is simpler and more efficient",
    "F4": "LoRA-FA suits smaller machines",
    "F5": "LoRA-FA's quality stays high",
    "V1": 'VeRA stands for "Vector Reuse Adaptation"',
    "V2": "In VeRA one fixed pair A, B serves all layers",
    "V3": "In VeRA only small scaling vectors train",
    "V4": 'VeRA\'s use of memory is minimal ("ultra-efficient"), so that many sets can be stored',
    "V5": "VeRA scales to very large models where memory is scarce",
    "V6": "Models that are fine-tuned with VeRA move between systems more easily",
    "D1": "Delta-LoRA adds the change of the product B A between two steps to W",
    "D2": "Delta-LoRA learns effectively from changing data distributions",
    "D3": "Delta-LoRA's updates are controlled: they are stable and prevent overfitting",
    "D4": "Delta-LoRA captures nuances and improves accuracy",
    "P1": "LoRA+ gives B a larger learning rate",
    "P2": "LoRA+ converges faster and shortens training",
    "P3": "LoRA+ does so at no loss of quality",
    "P4": "LoRA+ has the same savings as LoRA",
    "P5": "LoRA+ suits work that has to adapt in little time",
    "W1": "Smaller teams can fine-tune language models",
    "W2": "LoRA-FA and VeRA make massive models feasible in constrained environments",
    "W3": "Lower demands of computation and memory become lower cost",
    "W4": "Delta-LoRA adapts to diverse tasks and rapidly changing data",
}  # fmt: skip


class Row(NamedTuple):
    """A line of the page."""

    numbers: str  # of the sentences
    sentence: str
    study: str  # "" for a sentence that no study tests
    evidence: str
    verdict: str


SAID: tuple[tuple[str, str, str, str], ...] = (  # numbers, sentence, what is true, verdict
    (
        "G1 L6 W2 W3",
        "Massive models become feasible where memory is scarce; less computation is less cost",
        "bytes follow from shapes, so this carries over: [where the memory goes](memory.md) "
        "has Llama-7B's. The base's weights stay: no technique makes them smaller. Money"
        " was not measured",
        "counted, not run",
    ),
    (
        "L1",
        "LoRA decomposes the weight W into A and B",
        "the change of W is the product B A; W stays whole, frozen, and is read in every pass "
        "([lora.py](../minilora/methods/lora.py))",
        "false as said",
    ),
    (
        "L3 F1 V2 P1",
        "W stays while A and B train; LoRA-FA freezes A; VeRA shares one fixed pair; LoRA+ gives "
        "B a larger rate",
        "these define the techniques: `trains`, `prepare`, `lr_scale` of each file in "
        "[methods](../minilora/methods); tests check that what is frozen keeps its bits",
        "definition",
    ),
    (
        "V1",
        'VeRA stands for "Vector Reuse Adaptation"',
        "Vector-based Random Matrix Adaptation (Kopiczko et al. 2023)",
        "false as said",
    ),
    (
        "V3",
        "only small scaling vectors train in VeRA",
        "b (O) and d (r) of each linear: [vera.py](../minilora/methods/vera.py)",
        "definition",
    ),
    (
        "D1",
        "Delta-LoRA adds the change of the product B A between steps to W",
        "λ s (B'A' - B A), once a step: [delta_lora.py](../minilora/methods/delta_lora.py)",
        "definition",
    ),
    (
        "W1",
        "smaller teams can fine-tune language models",
        "a sentence about teams. It would take teams to test it",
        "not testable here",
    ),
    (
        "V5 F4",
        "it suits very large models and smaller machines",
        "the largest model trained here has 135 M numbers. Bytes are predicted from published "
        "shapes ([where the memory goes](memory.md)); quality at that size would need the size",
        "not testable here",
    ),
    (
        "P5 W4",
        "it suits work that has to adapt in little time; it adapts to rapidly changing data",
        "steps and one change of task are tested (above); a stream that changes for days is not. "
        "What would: a logged stream with dates",
        "tested in part",
    ),
)


def findings(
    records: Mapping[str, Sequence[Record]],
) -> list[tuple[str, Question, Finding]]:
    """(study, question, finding) of every study that has records, with Holm's correction."""
    found = []
    for name in (*ORDER, *APART):
        if name in records:
            each = study(name)
            summary = each.summary(list(records[name]))
            found += [(name, q, q.judge(summary)) for q in each.questions]
    return corrected(found)


def family(question: Question) -> str:
    """The letter of the family that a question's tests belong to."""
    return question.numbers[0] if question.numbers[0] in FAMILIES else "L"


def corrected(found: list[tuple[str, Question, Finding]]) -> list[tuple[str, Question, Finding]]:
    """The same after Holm's correction in each family: verdicts that it leaves in doubt change."""
    tests: dict[str, list[tuple[int, str, float]]] = {}  # family -> place, part, p
    for i, (_, question, finding) in enumerate(found):
        mine = tests.setdefault(family(question), [])
        mine += [(i, name, p) for name, (_, p) in finding.parts.items()]
        if finding.p is not None:
            mine.append((i, "", finding.p))
    for mine in tests.values():
        adjusted = holm([p for _, _, p in mine])
        for (i, part, _), p in zip(mine, adjusted, strict=True):
            if p > ERROR:
                name, question, finding = found[i]
                found[i] = name, question, in_doubt(finding, part, p, len(mine))
    return found


def in_doubt(finding: Finding, part: str, p: float, tests: int) -> Finding:
    """The finding after the correction has left its verdict, or that of a part, in doubt."""
    verdict = finding.parts[part][0] if part else finding.verdict
    if verdict == UNKNOWN:
        return finding
    alone = f"{f'{part}: ' if part else ''}alone it {verdict}, among {tests} tests p = {p:.3f}"
    text = f"{finding.evidence}; {alone}"
    if part:
        return of_parts(text, {**finding.parts, part: (UNKNOWN, p)})
    return dataclasses.replace(finding, evidence=text, verdict=UNKNOWN, when="")


def rows(records: Mapping[str, Sequence[Record]]) -> list[Row]:
    """Every line of the page: what is tested, in the studies' order; then all other sentences."""
    tested = [
        Row(
            q.numbers,
            q.sentence,
            name,
            f.evidence,
            f"{f.verdict}{f' when {f.when}' if f.when else ''}",
        )
        for name, q, f in findings(records)
    ]
    return [*tested, *(Row(n, s, "", true, verdict) for n, s, true, verdict in SAID)]


def answers(found: Sequence[Row]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Number, sentence, and of every line that answers it (study or "", verdict)."""
    return [
        (number, text, [(r.study, r.verdict) for r in found if number in r.numbers.split()])
        for number, text in SENTENCES.items()
    ]


def form(name: str) -> str:
    """The questions of a study: a Markdown list, folded."""
    lines = ["<details><summary>The questions</summary>", ""]
    for q in study(name).questions:
        said = {
            "Equal on both sides": q.equal,
            "Rule": q.rule,
            "The opposite would be": q.opposite,
            "It cannot say": q.silent,
        }
        lines.append(f"- *{q.sentence}* ({q.numbers})")
        lines += [f"  - {k}: {text.rstrip('.')}." for k, text in said.items() if text != "-"]
    return "\n".join([*lines, "", "</details>"])
