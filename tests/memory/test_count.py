"""The papers' own numbers of trainable parameters, and where a paper does not follow its own
formula (docs/errata.md).
"""

import tracemalloc

import pytest

from minilora.llama.model import ModelConfig
from minilora.llama.shapes import SHAPES
from minilora.memory.count import count, table

QV, ALL = ("q_proj", "v_proj"), "all-linear"
QKVO = "q_proj", "k_proj", "v_proj", "o_proj"

ROWS = [  # (row, shape, method, rank, targets, trained numbers), and what its source prints
    ("1", "gpt3-175b", "lora", 1, QV, 4_718_592),  # 4.7M (LoRA, table 4)
    ("2", "gpt3-175b", "lora", 8, QV, 37_748_736),  # 37.7M (LoRA, table 4)
    ("3", "gpt3-175b", "lora", 2, ("v_proj",), 4_718_592),  # 4.7M (LoRA, D.4)
    ("4", "gpt3-175b", "lora", 2, QKVO, 18_874_368),  # erratum: 37.7M (LoRA, D.4) needs r = 4
    ("5 one", "gpt3-175b", "lora", 8, ("q_proj",), 18_874_368),  # 18M (LoRA, table 5)
    ("5 two", "gpt3-175b", "lora", 4, QV, 18_874_368),  # 18M (LoRA, table 5)
    ("5 four", "gpt3-175b", "lora", 2, QKVO, 18_874_368),  # 18M (LoRA, table 5)
    ("6", "gpt2-medium", "lora", 4, QV, 393_216),  # erratum: 0.35M (LoRA, table 3)
    ("7", "gpt2-large", "lora", 4, QV, 737_280),  # erratum: 0.77M (LoRA, table 3)
    ("8", "roberta-base", "lora", 8, QV, 294_912),  # 0.3M (LoRA, table 2)
    ("9", "roberta-large", "lora", 8, QV, 786_432),  # 0.8M (LoRA, table 2)
    ("10", "deberta-xxl", "lora", 16, QV, 4_718_592),  # 4.7M (LoRA, table 2)
    # erratum: LoRA's appendix says r = 8 for the 4.7M of table 2
    ("10 r=8", "deberta-xxl", "lora", 8, QV, 2_359_296),
    ("11 base", "vit-base", "lora", 8, QV, 294_912),  # 294.9K (VeRA, table 5)
    ("11 large", "vit-large", "lora", 8, QV, 786_432),  # 786.4K (VeRA, table 5)
    ("12", "llama-7b", "lora", 64, ALL, 159_907_840),  # 159.9M (VeRA, table 4)
    ("13", "llama-13b", "lora", 64, ALL, 250_347_520),  # 250.3M (VeRA, table 4)
    ("14", "llama-7b", "vera", 1024, ALL, 1_589_248),  # 1.6M (VeRA)
    ("14b", "llama-7b", "vera", 256, ALL, 1_417_216),  # 1.4M (VeRA, first version)
    ("15", "llama-13b", "vera", 1024, ALL, 2_416_640),  # 2.4M (VeRA)
    ("16", "roberta-base", "vera", 1024, QV, 43_008),  # 0.043M (VeRA, table 2)
    ("17", "roberta-large", "vera", 256, QV, 61_440),  # 0.061M (VeRA, table 2)
    ("18 medium", "gpt2-medium", "vera", 1024, QV, 98_304),  # 0.098M (VeRA, table 3)
    ("18 large", "gpt2-large", "vera", 1024, QV, 165_888),  # 0.17M (VeRA, table 3)
    ("19 base", "vit-base", "vera", 256, QV, 24_576),  # 24.6K (VeRA, table 5)
    ("19 large", "vit-large", "vera", 256, QV, 61_440),  # 61.4K (VeRA, table 5)
    ("20", "roberta-base", "lora_fa", 8, ALL, 663_552),  # 9·C·r a layer, half of LoRA's 18·C·r
    ("21", "roberta-large", "lora_fa", 16, ALL, 3_538_944),  # erratum: 3.7M (VeRA, table 2)
    ("22 lora", "llama-3.2-3b", "lora", 32, QV, 9_175_040),  # PEFT's benchmark
    ("22 fa", "llama-3.2-3b", "lora_fa", 32, QV, 3_670_016),  # PEFT's benchmark
    ("22 vera", "llama-3.2-3b", "vera", 256, QV, 129_024),  # PEFT's benchmark
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row[0]}")
def test_the_papers_tables(row):
    _, shape, method, rank, targets, expected = row
    assert count(SHAPES[shape], method, rank=rank, targets=targets)["trainable"] == expected


NUMBERS = {  # of the whole model, as its page on Hugging Face and transformers count them
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "smollm3-3b": 3_075_098_624,
}


@pytest.mark.parametrize("shape", NUMBERS)
def test_all_numbers_of_a_published_model(shape):
    """With its biases, and the gains of its heads."""
    config = ModelConfig(**SHAPES[shape].config_fields())
    assert count(config, "full")["trainable"] == NUMBERS[shape]


def test_tiny_llama_as_peft_prints_it():
    """Row 23: LlamaConfig(vocab 128, hidden 64, inter 128, 2 layers, 4 heads, 2 key heads)."""
    tiny = ModelConfig(128, 64, 128, 2, 4, 2)
    assert count(tiny, "lora", rank=4)["trainable"] == 2 * 4 * (128 + 96) == 1_792
    assert count(tiny, "vera", rank=8)["trainable"] == 2 * (64 + 32 + 16) == 224


# VeRA, table 1: (shape, rank, LoRA's count, VeRA's count by its own formula L(C + r))
VERA_TABLE_1 = [
    ("roberta-base", 1, 36_864, 18_456),
    ("roberta-base", 16, 589_824, 18_816),
    ("roberta-base", 256, 9_437_184, 24_576),
    ("roberta-large", 1, 98_304, 49_200),
    ("roberta-large", 16, 1_572_864, 49_920),
    ("roberta-large", 256, 25_165_824, 61_440),
    ("gpt3-175b", 1, 4_718_592, 2_359_488),
    ("gpt3-175b", 16, 75_497_472, 2_362_368),  # erratum: the paper prints 2.8M
    ("gpt3-175b", 256, 1_207_959_552, 2_408_448),  # erratum: the paper prints 8.7M
]


@pytest.mark.parametrize("shape, rank, lora, vera", VERA_TABLE_1)
def test_vera_table_1(shape, rank, lora, vera):
    assert count(SHAPES[shape], "lora", rank=rank)["trainable"] == lora
    assert count(SHAPES[shape], "vera", rank=rank)["trainable"] == vera


@pytest.mark.parametrize("rank, printed", [(16, 2_752_512), (256, 8_650_752)])
def test_the_erratum_is_the_shared_pair_counted_and_d_forgotten(rank, printed):
    found = count(SHAPES["gpt3-175b"], "vera", rank=rank)
    assert found["frozen_shared"] == 2 * 12288 * rank
    assert found["trainable"] - 192 * rank + found["frozen_shared"] == printed


def test_full_counts_every_array_of_a_llama():
    config = ModelConfig(**SHAPES["smollm2-135m"].config_fields())
    assert count(config, "full")["trainable"] == 134_515_008
    assert count(SHAPES["gpt2-medium"], "full")["trainable"] == 24 * 12 * 1024**2  # linears only


def test_counting_gpt3_allocates_nothing_to_speak_of():
    tracemalloc.start()
    count(SHAPES["gpt3-175b"], "vera", rank=1024, targets=ALL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_per_linear_adds_up_and_the_table_has_every_method():
    found = count(SHAPES["llama-3.2-3b"], "lora", rank=8, targets=ALL)
    assert sum(k["count"] * k["each"] for k in found["per_linear"].values()) == found["trainable"]
    assert found["per_linear"]["v_proj"] == {"count": 28, "each": 8 * (3072 + 1024)}
    rows = table(SHAPES["gpt2-medium"], rank=4)
    assert (
        rows["lora"]["trainable"]
        == rows["lora_plus"]["trainable"]
        == rows["delta_lora"]["trainable"]
        == 393_216
    )
