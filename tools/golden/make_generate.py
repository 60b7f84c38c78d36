#!/usr/bin/env python3
"""Goldens of generation on the packaged SmolLM2-135M-Instruct: greedy and beam-free continuations by transformers 5.23.0
(torch 2.13.0) in f32. Usage: make_generate.py MODEL.gguf. Writes tests/golden/generate/smollm2.txt: a case on two lines,
prompt ids and new ids; the last case has a repetition penalty of 1.3."""
import pathlib
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

path = pathlib.Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
prompts = ["The capital of France is", "def fibonacci(n):\n", "Once upon a time there was a small",
           "<|im_start|>user\nWhat is a fern?<|im_end|>\n<|im_start|>assistant\n", "1, 2, 3, 4,"]
lines = []
for i, prompt in enumerate(prompts):
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    penalty = {"repetition_penalty": 1.3} if i == len(prompts) - 1 else {"repetition_penalty": 1.0}
    with torch.no_grad():
        out = model.generate(ids, do_sample=False, max_new_tokens=24, temperature=None, top_p=None, top_k=None, eos_token_id=2, pad_token_id=2, **penalty)
    lines += [" ".join(map(str, ids[0].tolist())), " ".join(map(str, out[0, ids.shape[1]:].tolist()))]
    print(repr(tokenizer.decode(out[0, ids.shape[1]:])))
target = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/generate"
target.mkdir(exist_ok=True)
(target / "smollm2.txt").write_text("\n".join(lines) + "\n")
