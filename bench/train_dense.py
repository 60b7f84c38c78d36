#!/usr/bin/env python3
"""Row 1: LoRA r=8 on q and v, 4 x 256 tokens a step, every token in the loss. Peer: transformers + peft on the same file,
f32, bf16, and bf16 with torch.compile. Usage: train_dense.py [--rounds N] [--steps N] [--modes f32,bf16,compile]"""
import argparse
import tempfile

import common

PEER = r'''
import json, resource, sys, time
import torch
from transformers import AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
path, name, mode, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.set_num_threads(int(sys.argv[5]))
rows = [json.loads(l)["input_ids"] for l in open(sys.argv[6])]
dtype = torch.float32 if mode == "f32" else torch.bfloat16
model = AutoModelForCausalLM.from_pretrained(path, gguf_file=name, dtype=dtype)
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
model.train()
run = torch.compile(model) if mode == "compile" else model
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
times, losses = [], []
for step in range(steps + 2):
    begin = time.monotonic()
    ids = torch.tensor(rows[4 * step % len(rows):][:4])
    loss = run(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step(); optimiser.zero_grad()
    losses.append(loss.item())
    if step >= 2: times.append(time.monotonic() - begin)
times.sort()
print(json.dumps({"tok_s": 1024 / times[len(times) // 2], "loss": losses[-1], "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
'''


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--steps", type=int, default=6)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--modes", default="f32,bf16,compile")
    a = args.parse_args()
    path = common.model()
    with tempfile.TemporaryDirectory() as tmp:
        data = f"{tmp}/data.jsonl"
        common.write_random_rows(data, 4 * (a.steps + 2))

        def ours(dtype):
            def once():
                r, _ = common.run([common.graft(), "sft", "-m", path, "--data", data, "--output-dir", f"{tmp}/out", "--overwrite-output-dir",
                                   "--max-steps", a.steps + 2, "--per-device-train-batch-size", 4, "--lora-r", 8, "--lora-alpha", 16, "--target-modules",
                                   "q_proj,v_proj", "--learning-rate", 1e-4, "--no-shuffle", "--save-strategy", "no", "--dtype", dtype, "--threads", a.threads,
                                   "--logging-strategy", "no", "--json"])
                return {"tok_s": r["train_tokens_per_second"], "memory": r["peak_memory"], "loss": r["train_loss"]}
            return once

        peer = common.has_peer("torch", "transformers", "peft", "gguf")
        for mode in a.modes.split(","):
            def theirs(mode=mode):
                r, _ = common.run([common.peers_python(), "-c", PEER, path.parent, path.name, mode, a.steps, a.threads, data])
                return r
            mine, other = common.alternate(ours("f32" if mode == "f32" else "bf16"), theirs if peer else None, a.rounds)
            common.row(f"train 4x256 LoRA q,v, {mode}", mine, other, "tok_s", "tok/s")
            common.row(f"train 4x256 LoRA q,v, {mode}: memory", mine, other, "memory", "bytes", higher_is_better=False)


main()
