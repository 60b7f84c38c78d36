#!/usr/bin/env python3
"""Makes tests/golden/combined.safetensors: what peft's add_weighted_adapter makes of adapters in tests/golden/adapters.

Made with torch 2.13.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0.
Usage: python tools/golden/make_combined.py   (run in the project's root, after make_models.py and make_adapters.py)

input_ids, attention_mask, labels as in make_methods.py; NAME: every 5th element of the logits of a case below, masked positions
set to zero; NAME.loss."""
import warnings

import peft
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from make_methods import MODELS, OUT, STRIDE, batch, sample

CASES = {  # name: (adapters, weights, arguments)
    "linear": (("plain", "regex"), (0.7, 0.4), dict(combination_type="linear")),
    "negative": (("plain", "regex"), (1.2, -0.5), dict(combination_type="linear")),
    "cat": (("plain", "rslora"), (0.5, 0.9), dict(combination_type="cat")),
    "svd": (("plain", "rslora"), (0.5, 0.9), dict(combination_type="svd", svd_rank=3)),
    "ties": (("plain", "regex"), (0.7, 0.4), dict(combination_type="ties", density=0.6)),
    "ties_frequency": (("plain", "regex"), (0.7, 0.4),
                       dict(combination_type="ties", density=0.8, majority_sign_method="frequency")),
    "magnitude_prune": (("plain", "regex"), (0.7, 0.4), dict(combination_type="magnitude_prune", density=0.5)),
}


def main():
    torch.set_num_threads(1)
    out = {}
    for name, (adapters, weights, arguments) in CASES.items():
        model = AutoModelForCausalLM.from_pretrained(MODELS / "llama", dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.PeftModel.from_pretrained(model, OUT.parent / "adapters" / adapters[0], adapter_name="0")
            for i, adapter in enumerate(adapters[1:], 1):
                model.load_adapter(OUT.parent / "adapters" / adapter, adapter_name=str(i))
            # a regular expression and a list of names cannot be mixed there
            for config in model.peft_config.values():
                if isinstance(config.target_modules, str):
                    config.target_modules = {n.split(".", 2)[2] for n, m in model.named_modules()
                                             if hasattr(m, "lora_A") and "1" in m.lora_A}
            model.add_weighted_adapter([str(i) for i in range(len(adapters))], list(weights), "mixed", **arguments)
        model.set_adapter("mixed")
        model.eval()
        inputs, golden = batch(model)
        result = model(**inputs)
        out.update(golden)
        out[name] = sample(result.logits, inputs["attention_mask"])
        out[name + ".loss"] = result.loss.detach().reshape(1).numpy()
        print(name, flush=True)
    save_file(out, OUT.parent / "combined.safetensors", metadata={"stride": str(STRIDE)})


if __name__ == "__main__":
    main()
