#!/usr/bin/env python3
"""Makes tests/golden/adapters: LoRA adapters that peft wrote for the tiny models of make_models.py, with what peft computes.

Made with torch 2.13.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, seed 20260802.
Usage: python tools/golden/make_adapters.py [NAME ...]   (run in the project's root, after make_models.py)

NAME/ is an adapter directory (adapter_config.json, adapter_model.safetensors, all values random, so that nothing is a
no-op) for the model that its base_model_name_or_path names. NAME/golden.safetensors holds:
  input_ids, attention_mask, labels (B,T) int64: what went in
  logits: every 5th element of (B,T,V), masked positions set to zero; loss (1); merged: the same as logits from
  merge_and_unload (cases in MERGED)
  grad.NAME: every gradient, NAME as in adapter_model.safetensors
  steps (20): losses of 20 steps of torch.optim.AdamW(lr 1e-2, weight_decay 0.01) on the adapter (cases in STEPS)
The model is in evaluation mode: dropout is off."""
import json
import pathlib
import shutil
import sys
import warnings

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

SEED = 20260802
MODELS = pathlib.Path("tests/golden/models")
OUT = pathlib.Path("tests/golden/adapters")
STRIDE = 5

CASES = {  # name: (base, settings of LoraConfig)
    "plain": ("llama", dict(r=4)),
    "all_linear": ("llama", dict(r=3, lora_alpha=16, target_modules="all-linear", lora_dropout=0.1)),
    "rslora": ("llama", dict(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "o_proj", "down_proj"])),
    "patterns": ("llama", dict(r=4, target_modules="all-linear", rank_pattern={"q_proj": 2, r".*\.0\.mlp\.up_proj": 5},
                               alpha_pattern={"layers.1.self_attn.k_proj": 3, "down_proj": 12})),
    "one_layer": ("llama", dict(r=4, target_modules=["k_proj", "gate_proj"], layers_to_transform=[1])),
    "layer_pattern": ("llama", dict(r=4, target_modules=["v_proj"], layers_to_transform=0, layers_pattern="layers")),
    "regex": ("llama", dict(r=4, target_modules=r"model\.layers\.\d+\.(self_attn\.[qv]_proj|mlp\.down_proj)")),
    "exclude": ("llama", dict(r=4, target_modules="all-linear", exclude_modules=["k_proj", "layers.0.mlp.up_proj"])),
    "gaussian": ("mistral", dict(r=4, init_lora_weights="gaussian", target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])),
    "head": ("llama", dict(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "norms": ("qwen3", dict(r=4, target_modules=["up_proj"], modules_to_save=["norm"])),
    "tied_both": ("llama_tied", dict(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])),
    "tied_embedding": ("llama_tied", dict(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "tied_kept": ("llama_tied", dict(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"],
                                     ensure_weight_tying=True)),
    "bias_all": ("llama_bias", dict(r=4, target_modules=["q_proj", "down_proj"], layers_to_transform=[0], bias="all")),
    "bias_own": ("llama_bias", dict(r=4, target_modules=["q_proj", "up_proj"], bias="lora_only")),
    "qwen2": ("qwen2_sliding", dict(r=8, lora_alpha=16, target_modules="all-linear")),
    "whole_block": ("smollm3", dict(r=2, target_modules=["q_proj"], modules_to_save=["layers.1.mlp"])),
    "lora_embedding": ("llama", dict(r=4, target_modules=["embed_tokens", "v_proj"])),
    "lora_head": ("llama", dict(r=4, target_modules=["lm_head", "v_proj"], lora_alpha=2)),
    "lora_tied": ("llama_tied", dict(r=4, target_modules=["lm_head", "embed_tokens"])),
    "dora_head": ("llama", dict(r=3, use_dora=True, target_modules=["lm_head", "v_proj"], lora_alpha=5)),
    "dora_tied": ("llama_tied", dict(r=2, use_dora=True, target_modules=["lm_head", "embed_tokens"])),
}
STEPS = {"plain", "all_linear", "head", "bias_all", "qwen2", "tied_kept", "lora_head"}
MERGED = {"all_linear", "bias_all", "norms", "head", "dora_head"}


def stored(name):
    name = name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")
    return name.replace(".modules_to_save.default", "").replace(".default", "")


def batch(model):
    """The same as make_models.py's."""
    golden = {}
    g = torch.Generator().manual_seed(20260801 + 1)
    ids = torch.randint(3, model.config.vocab_size, (3, 28), generator=g)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    mask[2, :3] = 0
    mask[2, 22:] = 0
    ids[mask == 0] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[2, 3:9] = -100
    golden.update(input_ids=ids.numpy(), attention_mask=mask.numpy(), labels=labels.numpy())
    return dict(input_ids=ids, attention_mask=mask, labels=labels), golden


def sample(logits, mask):
    logits = logits.detach().clone()
    logits[mask == 0] = 0
    return logits.reshape(-1)[::STRIDE].numpy().copy()


def make(name):
    base, settings = CASES[name]
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(MODELS / base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    g = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.requires_grad:
                noise = torch.randn(p.shape, generator=g)
                p.add_(noise * (0.1 if "lora_" in n else 0.05))
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(path)
    (path / "README.md").unlink()
    config = json.loads((path / "adapter_config.json").read_text())
    for key in ("target_modules", "exclude_modules"):  # sets, in no order of their own
        if isinstance(config[key], list):
            config[key].sort()
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    inputs, golden = batch(model)
    out = model(**inputs)
    out.loss.backward()
    golden["logits"] = sample(out.logits, inputs["attention_mask"])
    golden["loss"] = out.loss.detach().reshape(1).numpy()
    for n, p in model.named_parameters():
        if p.requires_grad:
            golden["grad." + stored(n)] = p.grad.numpy().copy()
    if name in STEPS:
        params = [p for p in model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in params]
        optimizer = torch.optim.AdamW(params, lr=1e-2, weight_decay=0.01)
        losses = []
        for _ in range(20):
            out = model(**inputs)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            losses.append(out.loss.item())
        golden["steps"] = np.array(losses, np.float32)
        with torch.no_grad():
            for p, b in zip(params, before):
                p.copy_(b)
    if name in MERGED:
        golden["merged"] = sample(model.merge_and_unload()(**inputs).logits, inputs["attention_mask"])
    save_file(golden, path / "golden.safetensors", metadata={"stride": str(STRIDE)})


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or CASES:
        make(name)
        print(name, flush=True)


main()
