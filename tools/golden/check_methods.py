#!/usr/bin/env python3
"""Checks that peft loads the adapters that graft trains, of every method, with equal logits. Not part of the tests: it needs the
Python libraries. (The other way round, and gradients, are goldens: make_adapters.py, make_methods.py.)

Usage: check_methods.py PATH/TO/graft   (run in the project's root)
Last run with torch 2.13.0, transformers 5.23.0, peft 0.21.2, in float32 on the CPU.

On tiny models of several variants graft trains a few steps of each method; peft loads the directory as it is. So it does with
a classifier that a T5 gets, of which the adapter holds the head, and transformers with one that is trained whole. Errors are
the largest difference over the largest logit."""
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

warnings.simplefilter("ignore")
logging.disable_progress_bar()
logging.set_verbosity_error()
SEED, LIMIT = 20260801, 2e-5
GRAFT = sys.argv[1]
MODELS = ["llama", "llama_tied", "qwen2", "qwen3", "mistral", "smollm3"]
METHODS = {
    "lora": ["--lora-r", 4, "--target-modules", "all-linear"],
    "lora rsLoRA, patterns": ["--lora-r", 4, "--target-modules", "q_proj,v_proj,down_proj", "--use-rslora",
                              "--rank-pattern", '{"v_proj": 6}', "--alpha-pattern", '{"q_proj": 3}'],
    "lora layers, bias": ["--lora-r", 4, "--layers-to-transform", "1", "--lora-bias", "lora_only"],
    "lora saved norms": ["--lora-r", 4, "--modules-to-save", "norm"],
    "lora embedding": ["--lora-r", 4, "--target-modules", "embed_tokens,q_proj"],
    "dora": ["--lora-r", 4, "--use-dora"],
    "dora embedding": ["--lora-r", 4, "--use-dora", "--target-modules", "embed_tokens,v_proj"],
    "adalora": ["--method", "adalora", "--init-r", 4, "--target-r", 2, "--tfinal", 1],
    "oft": ["--method", "oft", "--oft-block-size", 8, "--target-modules", "q_proj,down_proj"],
    "oft exact, coft": ["--method", "oft", "--oft-block-size", 8, "--coft", "--eps", 0.3, "--no-use-cayley-neumann"],
    "several tasks": ["--method", "multitask-prompt-tuning", "--num-virtual-tokens", 5, "--num-tasks", 3, "--num-ranks", 2],
    "ia3": ["--method", "ia3"],
    "ia3 chosen": ["--method", "ia3", "--target-modules", "q_proj,o_proj,up_proj", "--feedforward-modules", "o_proj"],
    "prompt": ["--method", "prompt-tuning", "--num-virtual-tokens", 5],
    "prefix": ["--method", "prefix-tuning", "--num-virtual-tokens", 5],
    "prefix projection": ["--method", "prefix-tuning", "--num-virtual-tokens", 5, "--prefix-projection", "--encoder-hidden-size", 16],
    "p-tuning mlp": ["--method", "p-tuning", "--num-virtual-tokens", 5, "--encoder-hidden-size", 16],
    "p-tuning lstm": ["--method", "p-tuning", "--num-virtual-tokens", 5, "--encoder-hidden-size", 16,
                      "--encoder-reparameterization-type", "LSTM"],
    "llama-adapter": ["--method", "llama-adapter", "--adapter-len", 4, "--adapter-layers", 2],
    "ln-tuning": ["--method", "ln-tuning"],
    "vera": ["--method", "vera", "--r", 16],
    "loha": ["--method", "loha", "--r", 3, "--target-modules", "all-linear"],
    "lokr": ["--method", "lokr", "--r", 2],
    "pissa": ["--method", "lora", "--init-lora-weights", "pissa", "--lora-r", 4],
}
T5_METHODS = {
    "lora": ["--target-modules", "all-linear"],
    "dora": ["--use-dora"],
    "adalora": ["--method", "adalora", "--init-r", 4, "--target-r", 2, "--tfinal", 1],
    "oft": ["--method", "oft", "--oft-block-size", 8],
    "ia3": ["--method", "ia3"],
    "ln-tuning": ["--method", "ln-tuning"],
    "vera": ["--method", "vera", "--r", 8],
    "loha": ["--method", "loha", "--r", 3],
    "lokr": ["--method", "lokr", "--r", 2],
    "pissa": ["--init-lora-weights", "pissa"],
    "full": ["--method", "full"],
}
failures, refused = [], []


def run(*args):
    return subprocess.run([GRAFT, *map(str, args)], capture_output=True, text=True)


def cell(tmp, model, name, options):
    path = tmp / "model"  # the tiny models have no tokenizer; any will do for records of ids
    shutil.copytree(pathlib.Path("tests/golden/models") / model, path)
    for name_of in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pathlib.Path("tests/golden/train/model") / name_of, path)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    vocab = base.config.vocab_size
    draw = random.Random(SEED)
    data = tmp / "data.jsonl"
    records = [[draw.randrange(3, vocab) for _ in range(draw.randrange(6, 20))] for _ in range(8)]
    tasks = "--num-tasks" in options
    data.write_text("".join(json.dumps({"input_ids": r, "labels": r, "task_ids": i % 3}) + "\n" for i, r in enumerate(records)),
                    encoding="utf-8")
    done = run("sft", "-m", path, "--data", data, "-o", tmp / "a", "--dtype", "f32", "--max-steps", 4, "-b", 4, "--learning-rate",
               "2e-2", "--lr-scheduler-type", "constant", "--save-strategy", "no", "--seed", SEED, "--overwrite-output-dir", "-q", *options)
    if done.returncode:
        refused.append(f"{model}: {name}: {done.stderr.strip()}")
        return
    ids = torch.tensor([[draw.randrange(3, vocab) for _ in range(12)] for _ in range(2)])
    inputs = {"input_ids": ids, **({"task_ids": torch.tensor([2, 0])} if tasks else {})}
    save_file(inputs, tmp / "in.safetensors")
    done = run("forward", "-m", path, "--adapter", tmp / "a", "--dtype", "f32", "--input", tmp / "in.safetensors", "--output",
               tmp / "out.safetensors")
    assert done.returncode == 0, done.stderr
    ours = load_file(tmp / "out.safetensors")["logits"]
    with torch.no_grad():
        plain = base.eval()(input_ids=ids).logits
        try:
            theirs = PeftModel.from_pretrained(base, tmp / "a").eval()(**inputs).logits
        except ValueError as e:
            if not str(e).startswith("Unsupported model type"):
                raise
            refused.append(f"{model}: {name}: peft: {e}")
            return
    if theirs.shape != ours.shape:
        failures.append(f"{model}: {name}: shapes {tuple(ours.shape)}, {tuple(theirs.shape)}")
        return
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    moved = ((ours[:, -ids.shape[1]:] - plain).abs().max() / plain.abs().max()).item()
    print(f"{model:<12} {name:<24} {error:.1e}   (moves the logits by {moved:.1e})", flush=True)
    if not error <= LIMIT or moved == 0:
        failures.append(f"{model}: {name}")


def classifier(tmp, name, options):
    path, out, whole = tmp / "model", tmp / "a", name == "full"
    shutil.copytree(pathlib.Path("tests/golden/families/t5"), path)
    for name_of in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pathlib.Path("tests/golden/seq2seq/model") / name_of, path)
    data = tmp / "data.jsonl"
    texts = [("red house", "a"), ("blue house on the road", "b"), ("three men", "a"), ("none", "c")]
    data.write_text("".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in 4 * texts), encoding="utf-8")
    done = run("sft", "-m", path, "--task-type", "SEQ_CLS", "--data", data, "-o", out, "--dtype", "f32", "--max-steps", 4, "-b", 4,
               "--learning-rate", "2e-2", "--save-strategy", "no", "--seed", SEED, "-q", *options)
    assert done.returncode == 0, done.stderr
    ids = torch.tensor([[5, 6, 7, 1, 9, 8, 1], [5, 6, 7, 8, 1, 3, 1]])
    save_file({"input_ids": ids}, tmp / "in.safetensors")
    done = run("forward", "-m", out if whole else path, *([] if whole else ["--adapter", out]), "--dtype", "f32", "--input",
               tmp / "in.safetensors", "--output", tmp / "out.safetensors")
    assert done.returncode == 0, done.stderr
    ours = load_file(tmp / "out.safetensors")["logits"]
    with torch.no_grad():
        more = {} if whole else {"num_labels": 3}
        model = AutoModelForSequenceClassification.from_pretrained(out if whole else path, dtype=torch.float32, **more)
        theirs = (model if whole else PeftModel.from_pretrained(model, out)).eval()(input_ids=ids).logits
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"{'t5, classes':<12} {name:<24} {error:.1e}", flush=True)
    if not error <= LIMIT:
        failures.append(f"t5 classifier: {name}")


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        for model in MODELS:
            for name, options in METHODS.items():
                folder = pathlib.Path(tmp) / f"{model}-{name.replace(' ', '-').replace(',', '')}"
                folder.mkdir()
                cell(folder, model, name, options)
        for name, options in T5_METHODS.items():
            folder = pathlib.Path(tmp) / f"t5-{name}"
            folder.mkdir()
            classifier(folder, name, options)
    for line in refused:
        print(f"refused: {line}")
    print("everything agrees" if not failures else f"FAILED: {'; '.join(failures)}")
    sys.exit(bool(failures))


main()
