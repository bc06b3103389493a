"""What PEFT calls things, and what they are called here: for error messages."""

# a keyword, a function or an attribute of a model in PEFT -> what is the same here
PEFT_NAMES = {
    "r": "rank",
    "lora_alpha": "alpha",
    "target_modules": "targets",
    "lora_dropout": "dropout",
    "vera_dropout": "dropout",
    "use_rslora": "rank_stabilized",
    "loraplus_lr_ratio": "ratio",
    "get_peft_model": "attach",
    "LoraConfig": "attach",
    "VeraConfig": "attach",
    "PeftModel": "load_adapter",
    "AutoPeftModelForCausalLM": "load_adapter",
    "save_pretrained": "ml.save_adapter(tuned, folder)",
    "merge_and_unload": "ml.merge(tuned)",
    "unload": "ml.detach(tuned)",
    "disable_adapter": "tuned.base, the model without its adapter",
    "print_trainable_parameters": "print(tuned), or tuned.count_parameters()",
    "packing": "nothing, since padding is not computed here",
    "add_adapter": "ml.Library, which holds several adapters",
}


def peft_hint(name: str) -> str:
    """The end of an error about a name that is unknown here: "; wanted rank" for PEFT's "r"."""
    return f"; wanted {PEFT_NAMES[name]}" if name in PEFT_NAMES else ""
