#!/usr/bin/env python3
"""Makes tests/golden/qlora: adapters of every method over bases of few bits, as peft wrote them, with what it computes over
bitsandbytes' layers.

Made with torch 2.13.0 on one thread, transformers 5.23.0, peft 0.21.2, bitsandbytes 0.50.2, safetensors 0.8.0, seed 20261127.
Usage: python tools/golden/make_qlora.py [NAME ...]   (in the project's root, after make_models.py and make_families.py)

cases.txt has a line a case: name, base (a path under tests/golden), format. NAME/ is an adapter directory as in make_family_methods.py,
NAME/golden.safetensors has input_ids, attention_mask, labels, logits, loss, grad.*, steps (5) as there.

bases/gpt2_nf4 (double quantisation), bases/gpt2_int8: GPT-2 as transformers saves it.

nf4: transformers loads the base with bitsandbytes (GPT-2's matrices transposed); see make_quant.py for its CPU kernel. int8: the base is
what bitsandbytes' codes decode to, in plain layers, for its layers of 8 bits round the activations too, which graft does not."""
import pathlib
import shutil
import sys
import warnings

import bitsandbytes as bnb
import numpy as np
import peft
import torch
import transformers as tf
from transformers.pytorch_utils import Conv1D

import make_families as families
import make_family_methods as cells
import make_methods
from make_families import STRIDE, gradients, hide, keep
from make_quant import flatten_kernels
from safetensors.numpy import save_file

SEED = 20261127
GOLDEN = pathlib.Path("tests/golden")
OUT = GOLDEN / "qlora"
LORA, IA3, PROMPT, PREFIX, P, LLAMA_ADAPTER = (peft.LoraConfig, peft.IA3Config, peft.PromptTuningConfig, peft.PrefixTuningConfig,
                                               peft.PromptEncoderConfig, peft.AdaptionPromptConfig)
LLAMA, BIASED, GPT2 = "models/llama", "models/llama_bias", "families/gpt2"
CASES = {  # name: (base, configuration class, settings)
    "ia3": (LLAMA, IA3, {}),
    "prompt": (LLAMA, PROMPT, dict(num_virtual_tokens=5)),
    "prefix": (LLAMA, PREFIX, dict(num_virtual_tokens=5)),
    "p_mlp": (LLAMA, P, dict(num_virtual_tokens=4, encoder_hidden_size=12)),
    "llama_adapter": (LLAMA, LLAMA_ADAPTER, dict(adapter_len=4, adapter_layers=2)),
    "dora": (LLAMA, LORA, dict(r=4, use_dora=True, target_modules=["q_proj", "v_proj", "down_proj"])),
    "biases": (BIASED, LORA, dict(r=2, bias="all")),
    "gpt2_lora": (GPT2, LORA, dict(r=4, target_modules=["c_attn", "c_proj", "c_fc"])),
    "gpt2_ia3": (GPT2, IA3, {}),
    "gpt2_dora": (GPT2, LORA, dict(r=3, use_dora=True, target_modules=["c_attn", "c_fc"])),
    "gpt2_prefix": (GPT2, PREFIX, dict(num_virtual_tokens=4)),
}


def load_nf4(base):
    config = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return tf.AutoModelForCausalLM.from_pretrained(GOLDEN / base, quantization_config=config, dtype=torch.float32, device_map="cpu")


def load_int8(base):
    model = tf.AutoModelForCausalLM.from_pretrained(GOLDEN / base, dtype=torch.float32)
    for name, module in model.named_modules():
        if name == "lm_head" or not isinstance(module, (torch.nn.Linear, Conv1D)):
            continue
        turned = isinstance(module, Conv1D)
        weight = module.weight.data.T if turned else module.weight.data
        codes = bnb.nn.Int8Params(weight.contiguous(), requires_grad=False).to("cpu")
        weight = bnb.functional.int8_vectorwise_dequant(codes.data, codes.SCB)
        module.weight.data = (weight.T if turned else weight).contiguous()
    return model


def make(name, kind):
    base, cls, settings = CASES[name]
    model = {"nf4": load_nf4, "int8": load_int8}[kind](base)
    batch = families.BATCHES["causal"](model.config) if base == GPT2 else make_methods.batch(model)[0]
    config = cls(task_type="CAUSAL_LM", **settings)
    torch.manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model, config).eval()
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.train()  # in inference bitsandbytes repacks the codes and rounds the scales; there is no dropout in it
    cells.disturb(model, 0.1)
    path = OUT / f"{name}_{kind}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    cells.save(model, path)
    golden = {n: x.numpy() for n, x in batch.items()}
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for _, p in trained], lr=1e-2, weight_decay=0.01)
    losses = []
    for step in range(5):
        optimizer.zero_grad()
        out = model(**batch)
        out.loss.backward()
        if step == 0:
            golden["logits"] = keep(hide(out.logits, batch))
            golden["loss"] = out.loss.detach().reshape(1).numpy()
            golden.update(gradients((cells.grad_name(n, config), p) for n, p in trained))
        optimizer.step()
        losses.append(out.loss.item())
    golden["steps"] = np.array(losses, np.float32)
    save_file(golden, path / "golden.safetensors", metadata={"stride": str(STRIDE)})


def save_bases():
    """GPT-2 as transformers saves it."""
    for name, settings in {"gpt2_nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
                           "gpt2_int8": dict(load_in_8bit=True)}.items():
        path = OUT / "bases" / name
        shutil.rmtree(path, ignore_errors=True)
        config = tf.BitsAndBytesConfig(**settings)
        model = tf.AutoModelForCausalLM.from_pretrained(GOLDEN / GPT2, quantization_config=config, dtype=torch.float32, device_map="cpu")
        model.train().save_pretrained(path)
        (path / "generation_config.json").unlink()


def main():
    torch.set_num_threads(1)
    flatten_kernels()
    OUT.mkdir(exist_ok=True)
    names = [(n, k) for n in CASES for k in ("nf4", "int8")]
    for name, kind in names:
        if not sys.argv[1:] or f"{name}_{kind}" in sys.argv[1:]:
            make(name, kind)
            print(name, kind, flush=True)
    save_bases()
    (OUT / "cases.txt").write_text("".join(f"{n}_{k} {CASES[n][0]} {k}\n" for n, k in names))


if __name__ == "__main__":
    main()
