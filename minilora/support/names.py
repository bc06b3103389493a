"""Names in PEFT and transformers, and their names here, for error messages."""

import functools
from collections.abc import Callable

# a keyword, a function or an attribute of a model in PEFT or transformers -> what to write here
PEFT_NAMES = {
    "r": "rank",
    "lora_alpha": "alpha",
    "target_modules": "targets",
    "lora_dropout": "dropout",
    "vera_dropout": "dropout",
    "use_rslora": "rank_stabilized",
    "use_dora": "the method 'dora'",
    "loraplus_lr_ratio": "ratio",
    "modules_to_save": "the method 'full', which trains all weights; else only the adapter trains",
    "init_lora_weights": "seed, which draws A; B starts at 0",
    "bias": "nothing: a bias of the base does not train",
    "task_type": "nothing: every model here continues a text",
    "do_sample": "temperature, above 0 to sample",
    "max_length": "max_new_tokens, which does not count the prompt",
    "adapter_names": "ml.Library and its use(name)",
    "get_peft_model": "attach",
    "LoraConfig": "attach",
    "VeraConfig": "attach",
    "PeftModel": "load_adapter",
    "AutoPeftModelForCausalLM": "load_adapter",
    "save_pretrained": "ml.save_adapter(tuned, folder)",
    "push_to_hub": "ml.save_adapter(tuned, folder), whose files huggingface_hub uploads",
    "merge_and_unload": "ml.merge(tuned)",
    "merge_adapter": "ml.merge(tuned), a new model",
    "unmerge_adapter": "ml.unmerge(merged, tuned), or tuned itself, which no merge changes",
    "unload": "ml.detach(tuned)",
    "disable_adapter": "tuned.base, the model without its adapter",
    "get_base_model": "tuned.base",
    "print_trainable_parameters": "print(tuned), or tuned.count_parameters()",
    "peft_config": "tuned.method, .rank, .alpha, .targets and .options",
    "packing": "nothing, since padding is not computed here",
    "add_adapter": "ml.Library, which holds several adapters",
    "set_adapter": "ml.Library and its use(name)",
    "delete_adapter": "ml.detach(tuned), or ml.Library and its remove(name)",
    "add_weighted_adapter": "ml.Library and its combine(name, weights)",
    "gradient_checkpointing_enable": "tuned.recompute = 'layers'",
    "eval": "nothing: dropout acts only in ml.train",
    "__call__": "tuned.logits(ids), or tuned.loss(ids, targets)",
}


def peft_hint(name: str) -> str:
    """The end of an error about a name that is unknown here: "; wanted rank" for PEFT's "r"."""
    return f"; wanted {PEFT_NAMES[name]}" if name in PEFT_NAMES else ""


def hinting(function: Callable) -> Callable:
    """A decorator: a keyword of PEFT or transformers raises TypeError with the name to use here."""

    @functools.wraps(function)
    def call(*values, **keywords):
        for name in keywords.keys() & PEFT_NAMES.keys():
            raise TypeError(f"{function.__name__}: got the keyword {name}{peft_hint(name)}")
        return function(*values, **keywords)

    return call
