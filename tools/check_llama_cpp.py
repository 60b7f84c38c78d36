#!/usr/bin/env python3
"""GGUF files written by graft, read by llama.cpp: logits of both on the same tokens. Not part of the tests: it needs a
build of llama.cpp and the Python libraries.

Usage: check_llama_cpp.py PATH/TO/graft [--model FILE.gguf]
GRAFT_LLAMA_CPP: a prefix with include/ (llama.h, ggml*.h) and lib/ (libllama); GRAFT_LLAMA_CPP_SOURCE: its source, for
convert_lora_to_gguf.py (without it that check is left out, and said).
Last run with llama.cpp of llama-cpp-python 0.3.36 (ggml 0.25.3), torch 2.13.0, transformers 5.23.0, peft 0.21.2.

Small random Llamas, Qwen2, Qwen3, SmolLM3 and GPT-2 and the packaged model, in float32, bfloat16, float16 and every
format that `graft quantize` writes. Of a float32 file the logits agree to 1e-4 of the largest one; of GPT-2 to 1e-3,
since ggml looks GELU up in a table of float16. In other formats llama.cpp rounds what it multiplies with to the
weights' own precision (blocks of 8 bits, bfloat16, float16); the difference is told, and must be within 20 % (a wrong
layout gives more than 100 %). LoRA adapters (trained by graft on the packaged model, random ones of peft on the small)
go there as GGUF and give the logits of graft with --adapter, apart and merged; adapters that convert_lora_to_gguf.py
wrote come back to the bit."""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen3Config, Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM)
from transformers.utils import logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
import common

logging.disable_progress_bar()
SEED = 20261126
TYPES = "F32,BF16,F16,Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,Q4_K,Q5_K,Q6_K"
EXACT, TABLE, ROUNDED = 1e-4, 1e-3, 0.2
failures = []


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return done


def theirs(work, file, ids, lora=None):
    ids.numpy().astype(numpy.int32).tofile(work.tmp / "ids")
    run(work.peer, "logits", file, work.tmp / "ids", work.tmp / "logits", *([lora] if lora else []))
    return torch.from_numpy(numpy.fromfile(work.tmp / "logits", dtype=numpy.float32)).view(len(ids), -1)


def ours(work, model, ids, adapter=None):
    save_file({"input_ids": ids[None]}, work.tmp / "in.safetensors")
    run(work.graft, "forward", "-m", model, *(["--adapter", adapter] if adapter else []), "--dtype", "f32", "--input",
        work.tmp / "in.safetensors", "--output", work.tmp / "out.safetensors")
    return load_file(work.tmp / "out.safetensors")["logits"][0]


def compare(what, a, b, limit):
    off = ((a - b).abs().max() / b.abs().max()).item()
    rms = ((a - b).norm() / (b - b.mean()).norm()).item()
    same = (a.argmax(-1) == b.argmax(-1)).float().mean().item()
    bad = not off <= limit or (limit < ROUNDED and same < 1)
    print(f"  {what:<34} largest {off:.1e}  rms {rms:.1e}  same choice {100 * same:5.1f} %"
          f"{'   TOO LARGE' if bad else ''}", flush=True)
    if bad:
        failures.append(what)


def small_models(tmp):
    common = dict(vocab_size=384, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.08)
    kinds = {
        "llama": (LlamaForCausalLM, LlamaConfig(**common)),
        "llama tied, llama3 rope": (LlamaForCausalLM, LlamaConfig(**common, tie_word_embeddings=True, rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192})),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config(**common)),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config(**common, head_dim=64)),
        "smollm3": (SmolLM3ForCausalLM, SmolLM3Config(**{**common, "num_hidden_layers": 4}, pad_token_id=0)),
        "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=384, n_embd=256, n_layer=2, n_head=4, n_positions=256,
                                              initializer_range=0.08)),
    }
    for name, (kind, config) in kinds.items():
        torch.manual_seed(SEED)
        config.bos_token_id, config.eos_token_id = 1, 2
        model = kind(config)
        with torch.no_grad():  # biases begin as zeros
            for parameter_name, p in model.named_parameters():
                if parameter_name.endswith("bias"):
                    p.normal_(0, 0.05)
        path = tmp / name.split()[0] if " " not in name else tmp / name.replace(" ", "_").replace(",", "")
        model.save_pretrained(path)
        yield name, path, torch.randint(3, 384, (48,)), kind


def exact(path):
    return TABLE if path.name == "gpt2" else EXACT


def formats(work, name, path, ids):
    print(name)
    if path.is_dir():
        run(work.graft, "convert", "-m", path, "-o", work.tmp / "m.gguf")
        compare("as converted (F32)", theirs(work, work.tmp / "m.gguf", ids), ours(work, path, ids), exact(path))
    for kind in work.types:
        file = work.tmp / f"m-{kind}.gguf"
        run(work.graft, "quantize", "-m", path, "--type", kind, "-o", file)
        compare(kind, theirs(work, file, ids), ours(work, file, ids), exact(path) if kind == "F32" else ROUNDED)
        file.unlink()


def trained(work, base, adapter):
    data = work.tmp / "data.jsonl"
    data.write_text("".join(f'{{"text": "The number {k} comes before {k + 1} and behind {k - 1}."}}\n'
                            for k in range(6)))
    run(work.graft, "sft", "-m", base, "--data", data, "-o", adapter, "--dtype", "f32", "--max-steps", 3, "-b", 2,
        "--learning-rate", "5e-3", "--lr-scheduler-type", "constant", "--target-modules", "all-linear", "--lora-r", 4,
        "--lora-alpha", 12, "--save-strategy", "no", "-q")


def initialised(path, adapter, kind):
    torch.manual_seed(SEED)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(kind.from_pretrained(path), config)
    model.save_pretrained(adapter)
    return model


def adapters(work, path, ids, kind):
    """Graft's own adapter, or of models without tokenizer peft's, on the float32 file."""
    adapter, file, base = work.tmp / f"adapter-{path.stem}", work.tmp / "adapter.gguf", work.tmp / "base.gguf"
    run(work.graft, "quantize", "-m", path, "--type", "F32", "-o", base)
    if kind:
        initialised(path, adapter, kind)
    else:
        trained(work, base, adapter)
    run(work.graft, "convert", "-m", base, "--adapter", adapter, "-o", file)
    with_it = ours(work, base, ids, adapter)
    compare("LoRA as GGUF", theirs(work, base, ids, file), with_it, exact(path))
    moved = (with_it - ours(work, base, ids)).abs().max() / with_it.abs().max()
    print(f"    (it moves the logits by {moved.item():.1e})")
    run(work.graft, "merge", "-m", base, "--adapter", adapter, "-o", work.tmp / "merged.gguf", "-q")
    compare("merged into the GGUF file", theirs(work, work.tmp / "merged.gguf", ids), with_it, exact(path))


def imported(work, name, path, ids, source, kind):
    """An adapter of peft through llama.cpp's own converter, and back."""
    adapter, file, back = work.tmp / "peft", work.tmp / "peft.gguf", work.tmp / "back"
    model = initialised(path, adapter, kind)
    run(sys.executable, source / "convert_lora_to_gguf.py", "--base", path, "--outtype", "f32",
        "--outfile", file, adapter)
    run(work.graft, "convert", "-m", path, "--adapter", file, "-o", back)
    with torch.no_grad():
        wanted = model.eval()(input_ids=ids[None]).logits[0]
    compare("convert_lora_to_gguf.py, back", ours(work, path, ids, back), wanted, EXACT)
    run(work.graft, "convert", "-m", path, "-o", work.tmp / "m.gguf")
    compare("the same there", theirs(work, work.tmp / "m.gguf", ids, file), wanted, EXACT)
    mine, other = work.tmp / "mine.gguf", load_file(back / "adapter_model.safetensors")
    run(work.graft, "convert", "-m", path, "--adapter", adapter, "-o", mine)
    compare("graft's own file there", theirs(work, work.tmp / "m.gguf", ids, mine), wanted, EXACT)
    for key, value in load_file(adapter / "adapter_model.safetensors").items():
        if not torch.equal(value, other[key]):
            failures.append(f"{name}: {key} came back changed")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("graft")
    args.add_argument("--types", default=TYPES)
    args.add_argument("--skip-small", action="store_true", help="the real model only")
    args.add_argument("--model", type=pathlib.Path, help="a GGUF file of a real model")
    a = args.parse_args()
    torch.set_num_threads(1)
    source = os.environ.get("GRAFT_LLAMA_CPP_SOURCE")
    with tempfile.TemporaryDirectory() as tmp:
        work = argparse.Namespace(graft=pathlib.Path(a.graft).resolve(), tmp=pathlib.Path(tmp),
                                  types=a.types.split(","))
        work.peer = common.llama_peer(work.tmp)
        if not work.peer:
            sys.exit("llama.cpp is missing: GRAFT_LLAMA_CPP names no prefix: nothing was compared")
        for name, path, ids, kind in () if a.skip_small else small_models(work.tmp):
            formats(work, name, path, ids)
            adapters(work, path, ids, kind)
            if source and name in ("llama", "qwen2", "qwen3"):
                imported(work, name, path, ids, pathlib.Path(source), kind)
        if not source:
            print("convert_lora_to_gguf.py is missing: GRAFT_LLAMA_CPP_SOURCE names no source: its files were not read")
        if a.model:
            ids = torch.tensor([1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511,
                                308, 34519, 28, 7018, 411, 407, 19712, 8182, 30])
            formats(work, a.model.name, a.model, ids)
            adapters(work, a.model, ids, None)
    print("everything agrees" if not failures else f"FAILED: {', '.join(failures)}")
    sys.exit(bool(failures))


main()
