"""What PEFT and transformers call things, and what they are called here: for error messages."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from .files import nearest

Function = TypeVar("Function", bound=Callable[..., Any])

# PEFT's name -> the name here
PEFT_NAMES = {
    "r": "rank",
    "lora_alpha": "alpha",
    "target_modules": "targets",
    "lora_dropout": "dropout",
    "vera_dropout": "dropout",
    "use_rslora": "rank_stabilized",
    "loraplus_lr_ratio": "ratio",
}

# a name in transformers' TrainingArguments or Trainer -> the keyword of train or of batches
TRAINER_NAMES = {
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_train_epochs": "steps",  # of the optimizer
    "epochs": "steps",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warmup",
    "max_grad_norm": "clip",
    "gradient_accumulation_steps": "accumulate",
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "adam_epsilon": "eps",
    "eval_steps": "evaluate_every",
    "save_steps": "checkpoint_every",
    "resume_from_checkpoint": "resume",
    "per_device_train_batch_size": "batch_size",
    "train_dataset": "batches",
}

# a name in PEFT or transformers -> the function here
FUNCTIONS = {
    "get_peft_model": "attach",
    "LoraConfig": "attach",
    "VeraConfig": "attach",
    "PeftModel": "load_adapter",
    "AutoPeftModelForCausalLM": "load_adapter",
    "Trainer": "train",
    "SFTTrainer": "train",
    "TrainingArguments": "train",
    "AutoModelForCausalLM": "load_model",
    "AutoTokenizer": "load_model",
    "LlamaForCausalLM": "load_model",
}


# an attribute of their models -> what gives the same here
ATTRIBUTES = {
    "save_pretrained": "ml.save_adapter(tuned, folder) or ml.save_model(model, folder)",
    "merge_and_unload": "ml.merge(tuned)",
    "unload": "ml.detach(tuned)",
    "disable_adapter": "tuned.base, the model without its adapter",
    "add_adapter": "ml.Library, which holds several adapters",
    "train": "ml.train(tuned, batches, steps=…, lr=…)",
    "parameters": "tuned.trainable or model.params",
    "named_parameters": "tuned.trainable or model.params",
    "state_dict": "tuned.trainable or model.params",
    "num_parameters": "tuned.count_parameters()",
    "to": "model.astype(dtype); all runs on the processor",
}


def no_attribute(thing: object, name: str) -> AttributeError:
    """The error for an attribute that a model does not have: what is wanted in its place."""
    ours = ATTRIBUTES.get(name)
    wanted = f"; wanted {ours}" if ours else ""
    return AttributeError(f"{type(thing).__name__!r} object has no attribute {name!r}{wanted}")


def names_keywords(function: Function) -> Function:
    """A decorator: for a keyword that the function does not take, TypeError with the right name."""
    known = [
        name
        for name, p in inspect.signature(function).parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]

    @functools.wraps(function)
    def checked(*arguments, **keywords):
        for name in keywords:
            if name not in known:
                raise _unknown(function.__name__, name, known)
        return function(*arguments, **keywords)

    return checked  # type: ignore[return-value]


def _unknown(function, name, known):
    """The TypeError for a keyword that is not among the known ones."""
    ours = TRAINER_NAMES.get(name)
    if ours in known:
        unit = " (optimizer steps, not epochs)" if "epochs" in name else ""
        return TypeError(f"{function}: got {name}=, wanted {ours}={unit}")
    return TypeError(str(nearest(f"keyword of {function}", name, known)))
