#!/usr/bin/env python3
"""Writes tests/golden/quant: what ggml's reference quantisers and bitsandbytes make of the same numbers.

Usage: make_quant.py [ggml LIBRARY | bitsandbytes | models]...  (from the project's root)
LIBRARY is a shared library of ggml/src/ggml-quants.c as it lies in vendor/llama.cpp of the source distribution of
llama-cpp-python 0.3.36, compiled for x86-64 without -march (no fused multiply-add): that file is all that is needed.
Made with Python 3.11, torch 2.13.0 on one thread, transformers 5.24.0, peft 0.21.2, bitsandbytes 0.50.2, safetensors 0.8.0.

Inputs are not stored: element i of series s is number(s, i) below, which the tests compute too, exactly."""
import ctypes
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/quant"
torch.set_num_threads(1)


def number(series, n, kind=0):
    """Kind 0: about the shape of weights; 1: positive; 2: the same 16 times; 3: mostly zeros; 4: whole numbers; 5: tiny."""
    i = np.arange(n, dtype=np.uint64)
    if kind == 2:
        i = i // np.uint64(16)
    h = (i + np.uint64(series) * np.uint64(1000003) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(31)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(29)
    u = (h >> np.uint64(32)).astype(np.float64) / 2.0**31 - 1.0
    x = u * u * u
    x = [x, np.abs(x), x, np.where(np.abs(u) < 0.9, 0.0, x), np.rint(x * 7.0), x * 1e-20][kind]
    return x.astype(np.float32)


def ggml(library):
    lib = ctypes.CDLL(library)
    sizes = {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "Q2_K": (256, 84), "Q3_K": (256, 110),
             "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}
    n, out = 2048, {}
    for name, (block, size) in sizes.items():
        for kind in range(6):
            x, to = number(kind, n, kind), np.zeros(n // block * size, np.uint8)
            call = getattr(lib, f"quantize_row_q{name[1:]}_ref")
            call(x.ctypes.data_as(ctypes.c_void_p), to.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n))
            out[f"{name}.{kind}"] = torch.from_numpy(to)
    save_file(out, OUT / "ggml.safetensors")


def bitsandbytes():
    import bitsandbytes.functional as F

    out = {}
    for kind in ("nf4", "fp4"):
        for block, n, what in ((64, 4096, 0), (64, 4096, 3), (32, 999, 0), (128, 1000, 0), (4096, 9000, 5), (64, 64 * 300, 1)):
            q, state = F.quantize_4bit(torch.from_numpy(number(7, n, what)), blocksize=block, quant_type=kind)
            key = f"{kind}.{block}.{n}.{what}"
            out[key], out[key + ".absmax"] = q.view(-1), state.absmax
            if n <= 4096:
                out[key + ".values"] = F.dequantize_4bit(q, state).view(-1)
    for n in (1, 7, 31, 300, 1000, 5000, 33333):
        absmax = torch.from_numpy(number(9, n, 1))
        offset = absmax.mean()
        q, state = F.quantize_blockwise(absmax - offset, blocksize=256)
        if n <= 5000:
            out[f"nested.{n}"] = q
            out[f"nested.{n}.values"] = F.dequantize_blockwise(q, state) + offset
        out[f"nested.{n}.absmax"], out[f"nested.{n}.offset"] = state.absmax, offset.view(1)
    out["dynamic_map"] = F.create_dynamic_map()
    for what in (0, 3, 4):
        rows = torch.from_numpy(number(11, 12 * 100, what)).view(12, 100)
        rows[5] = 0
        q, scale, _ = F.int8_vectorwise_quant(rows.half())
        out[f"int8.{what}"], out[f"int8.{what}.SCB"] = q, scale
        out[f"int8.{what}.values"] = F.int8_vectorwise_dequant(q, scale)
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "bitsandbytes.safetensors")


MODELS = {"nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4"), "fp4": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
          "nf4_double": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True), "int8": dict(load_in_8bit=True)}


def flatten_kernels():
    """bitsandbytes' CPU kernel takes the wrong scales where a row is not whole blocks; its portable code and its CUDA kernels count
    blocks through the whole tensor, as its quantiser does. One long row gives that."""
    from bitsandbytes.cextension import lib

    def flat(kernel):
        return lambda a, absmax, out, block, rows, columns: kernel(a, absmax, out, block, ctypes.c_longlong(1), ctypes.c_longlong(rows.value * columns.value))

    library = getattr(lib, "_lib", lib)
    for kind in ("nf4", "fp4"):
        name = f"cdequantize_blockwise_cpu_{kind}_fp32"
        setattr(lib, name, flat(getattr(library, name)))


def load(name, source):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    return AutoModelForCausalLM.from_pretrained(source, quantization_config=BitsAndBytesConfig(**MODELS[name]), dtype=torch.float32, device_map="cpu")


def dequantized(source, model):
    import bitsandbytes.functional as F
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear8bitLt":
            scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            plain.get_submodule(name).weight.data = F.int8_vectorwise_dequant(module.weight.data, scale)
    return plain


def qlora_losses(model):
    """Losses of 20 steps of LoRA over the quantised model, from the adapter of tests/golden/train."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, ROOT / "tests/golden/train/adapter", is_trainable=True)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-2, weight_decay=0.0)
    ids = torch.from_numpy((number(13, 20 * 2 * 12).reshape(20, 2, 12) * 170 + 175).astype(np.int64)).clamp(3, 351)
    losses = []
    for step in range(20):
        loss = model(input_ids=ids[step], labels=ids[step]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return ids, losses


def models():
    """The tiny model of tests/golden/train in each format as transformers saves it, with logits; losses of QLoRA."""
    flatten_kernels()
    source = ROOT / "tests/golden/train/model"
    ids = torch.arange(3, 3 + 24).view(2, 12) * 7 % 352
    runs = {}
    for name in MODELS:
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        model = load(name, source).train()  # in inference bitsandbytes repacks and rounds the scales to bfloat16
        model.save_pretrained(folder)
        if name == "int8":  # bitsandbytes rounds activations to 8 bits, too: the logits are those of the weights alone
            model = dequantized(source, model)
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        (folder / "generation_config.json").unlink()
        for beside in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / beside, folder)
        save_file({"input_ids": ids, "logits": logits.contiguous()}, OUT / f"{name}.golden.safetensors")
        if name == "int8":
            continue
        batches, losses = qlora_losses(model)
        runs[name] = losses
    (OUT / "qlora.jsonl").write_text("".join(json.dumps({"input_ids": row.tolist(), "labels": row.tolist()}) + "\n" for row in batches.view(-1, 12)))
    (OUT / "qlora.json").write_text(json.dumps(runs) + "\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    todo = sys.argv[1:]
    while todo:
        what = todo.pop(0)
        if what == "ggml":
            ggml(todo.pop(0))
        else:
            {"bitsandbytes": bitsandbytes, "models": models}[what]()


if __name__ == "__main__":
    main()
