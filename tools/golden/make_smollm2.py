#!/usr/bin/env python3
"""Makes tests/golden/smollm2.safetensors: what transformers computes with the packaged SmolLM2-135M-Instruct.Q4_1.gguf
(decoded to float32), as a sample of its logits.

Made with torch 2.13.0, transformers 5.23.0, gguf 0.19.0, peft 0.21.2, safetensors 0.8.0.
Usage: python tools/golden/make_smollm2.py PATH_OF_THE_GGUF   (run in the project's root)

For each sequence i: ids.I (T) int64; rows.I: the tokens whose logits are kept; top_ids.I, top.I (rows,16): the largest;
sample.I: every 211th logit of these rows; loss.I (1): mean over all next tokens; argmax.I (T).
grad.NAME: gradients of the loss of sequence 1 with LoRA (r 4, q_proj and v_proj of layers 3 and 29, A and B filled with
0.02 * sin(0.37 i), i counting the elements), every 7th element."""
import pathlib
import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "The river ran quietly past the old mill, and nobody in the village could say when the wheel had turned for the "
    "last time.",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nSummarise: zlib is a library that "
    "implements the deflate compression method found in gzip and PKZIP. This package includes the shared library."
    "<|im_end|>\n<|im_start|>assistant\nCompression library - runtime<|im_end|>\n",
    "def fib(n):\n    a, b = 0, 1\n    while n > 0:\n        a, b, n = b, a + b, n - 1\n    return a\n\n" * 10,
]


def main():
    path = pathlib.Path(sys.argv[1])
    torch.set_num_threads(2)
    tok = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    out = {}
    for i, text in enumerate(TEXTS):
        ids = tok(text, return_tensors="pt").input_ids
        with torch.no_grad():
            result = model(input_ids=ids, labels=ids)
        logits = result.logits[0]
        rows = sorted({0, 1, len(logits) // 2, len(logits) - 2, len(logits) - 1})
        top, top_ids = logits[rows].topk(16)
        out.update({f"ids.{i}": ids[0].numpy(), f"rows.{i}": np.array(rows), f"top_ids.{i}": top_ids.numpy(),
                    f"top.{i}": top.numpy(), f"sample.{i}": logits[rows][:, ::211].contiguous().numpy(),
                    f"loss.{i}": result.loss.reshape(1).numpy(), f"argmax.{i}": logits.argmax(-1).numpy()})
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], layers_to_transform=[3, 29])
    model = get_peft_model(model, config)
    ids = torch.tensor(out["ids.1"])[None]
    for n, p in model.named_parameters():
        if p.requires_grad:
            p.data.copy_((0.02 * torch.sin(0.37 * torch.arange(p.numel(), dtype=torch.float64))).reshape(p.shape))
    model(input_ids=ids, labels=ids).loss.backward()
    for n, p in model.named_parameters():
        if p.requires_grad:
            out["grad." + n.replace(".default", "")] = p.grad.reshape(-1)[::7].numpy().copy()
    save_file(out, "tests/golden/smollm2.safetensors", metadata={"stride": "7"})


main()
