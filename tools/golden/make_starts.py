#!/usr/bin/env python3
"""Makes tests/golden/starts: LoRA that begins with factors of the weight (PiSSA, OLoRA), as peft trains and saves it, for the tiny
models of make_models.py.

Made with torch 2.13.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, seed 20260804.
Usage: python tools/golden/make_starts.py [NAME ...]   (run in the project's root, after make_models.py)

NAME/adapter is what save_pretrained writes (it fits the reduced weights alone), NAME/lora what it writes with
path_initial_model_for_weight_conversion: a LoRA of twice the rank for the weights as they were. NAME/golden.safetensors holds
input_ids, attention_mask, labels, logits, loss, grad.*, steps as make_methods.py's, of the adapter moved away from its start.

tests/golden/loftq/NAME.safetensors: input_ids, attention_mask, labels, logits and loss of a fresh adapter that peft's loftq_init made (bitsandbytes
0.50.2; the function wants a GPU and is given the CPU instead), whose base is what the quantised weights decode to."""
import json
import shutil
import sys
import tempfile
import warnings

import numpy as np
import bitsandbytes as bnb
import peft
import torch
from peft.utils import loftq_utils
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

import make_methods
from make_methods import MODELS, STRIDE, batch, sample, stored
from make_quant import flatten_kernels

SEED = 20260804
OUT = make_methods.OUT.parent / "starts"

CASES = {
    "pissa": ("llama", dict(r=4, lora_alpha=6, init_lora_weights="pissa", target_modules=["q_proj", "v_proj", "down_proj"])),
    "pissa_patterns": ("llama_bias", dict(r=3, lora_alpha=3, init_lora_weights="pissa", target_modules="all-linear",
                                          rank_pattern={"o_proj": 6}, alpha_pattern={"o_proj": 9})),
    "olora": ("llama", dict(r=5, lora_alpha=5, init_lora_weights="olora", target_modules=["q_proj", "v_proj", "up_proj"])),
    "olora_rs": ("qwen3", dict(r=4, lora_alpha=2, init_lora_weights="olora", use_rslora=True)),
}


def tidy(path):
    (path / "README.md").unlink()
    config = json.loads((path / "adapter_config.json").read_text())
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def make(name):
    base, settings = CASES[name]
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    model = AutoModelForCausalLM.from_pretrained(MODELS / base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    start = settings["init_lora_weights"]
    with tempfile.TemporaryDirectory() as first, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(first)
        model.peft_config["default"].init_lora_weights = start
        g = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for _, p in model.named_parameters():
                if p.requires_grad:
                    p.add_(torch.randn(p.shape, generator=g) * 0.2)
        model.eval()
        model.save_pretrained(path / "adapter")
        model.save_pretrained(path / "lora", path_initial_model_for_weight_conversion=first)
    for part in ("adapter", "lora"):
        tidy(path / part)
    inputs, golden = batch(model)
    out = model(**inputs)
    out.loss.backward()
    golden["logits"] = sample(out.logits, inputs["attention_mask"])
    golden["loss"] = out.loss.detach().reshape(1).numpy()
    for n, p in model.named_parameters():
        if p.requires_grad:
            golden["grad." + stored(n)] = p.grad.numpy().copy()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-2, weight_decay=0.01)
    losses = []
    for _ in range(10):
        out = model(**inputs)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    golden["steps"] = np.array(losses, np.float32)
    save_file(golden, path / "golden.safetensors", metadata={"stride": str(STRIDE)})


LOFTQ = {  # name: (base, bits, settings); lora_alpha is r, for peft leaves the scale out
    "nf4": ("llama", 4, dict(r=6, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])),
    "int8": ("llama_bias", 8, dict(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj", "up_proj"])),
}


def make_loftq(name):
    base, bits, settings = LOFTQ[name]
    flatten_kernels()
    to = {t: t.to for t in (torch.Tensor, bnb.nn.Params4bit)}
    for t, old in to.items():
        def here(self, *args, old=old, **more):
            args = ["cpu" if a == "cuda" else a for a in args]
            return old(self, *args, **{k: "cpu" if v == "cuda" else v for k, v in more.items()})
        t.to = here
    model = AutoModelForCausalLM.from_pretrained(MODELS / base, dtype=torch.float32)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    config.init_lora_weights = "loftq"  # afterwards, for the constructor wants SciPy, which is not used
    config.loftq_config = vars(peft.LoftQConfig(loftq_bits=bits))
    model = peft.get_peft_model(model, config).eval()
    quantise_others(model, bits)
    for t, old in to.items():
        t.to = old
    inputs, golden = batch(model)
    with torch.no_grad():
        out = model(**inputs)
    golden.update(loss=out.loss.reshape(1).numpy(), logits=sample(out.logits, inputs["attention_mask"]))
    (OUT.parent / "loftq").mkdir(exist_ok=True)
    save_file(golden, OUT.parent / "loftq" / f"{name}.safetensors", metadata={"stride": str(STRIDE)})


def quantise_others(model, bits):
    """Loading in few bits takes every product but the head, with or without LoRA on it."""
    for name, module in model.named_modules():
        if type(module) is torch.nn.Linear and "lora_" not in name and "base_layer" not in name and "lm_head" not in name:
            module.weight.data = loftq_utils.loftq_init(module.weight, bits, 1)[0]


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    for name in sys.argv[1:] or [*CASES, *LOFTQ]:
        (make_loftq if name in LOFTQ else make)(name)
        print(name, flush=True)


if __name__ == "__main__":
    main()
