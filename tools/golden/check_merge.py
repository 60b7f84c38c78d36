#!/usr/bin/env python3
"""Checks merged models and adapters against transformers and peft. Not part of the tests: it needs the Python libraries.

Usage: check_merge.py PATH/TO/graft [PATH_OF_THE_GGUF DATA.jsonl]   (run in the project's root)
Last run with torch 2.13.0, transformers 5.23.0, peft 0.21.2, tokenizers 0.22, in float32 on the CPU.

Every model of tests/golden/models: an adapter that peft made is merged by graft; transformers must load the directory, say
what it says of the base's configuration, and give the logits of the PeftModel.

A small Llama in bitsandbytes' formats: graft and peft merge the same adapter into 4 and 8 bits. Decoded weights must
agree but where a value lies on the edge between two codes. (Its rows are whole blocks: on others bitsandbytes' CPU
kernel errs.)

With the two further arguments the packaged model: graft trains a few steps of LoRA (all-linear; rsLoRA; modules_to_save;
from a Hugging Face directory), and four programs must agree on the logits: graft with base and adapter, graft with the
merged directory, transformers with the merged directory, peft with the adapter on the same base. Tokenizer and chat
template of the merged directory must give the base's ids and text. Errors are the largest difference over the largest logit."""
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

warnings.simplefilter("ignore")
logging.disable_progress_bar()
SEED, LIMIT = 20260801, 1e-5
GRAFT = sys.argv[1]
VARIANTS = {
    "all-linear": ["--target-modules", "all-linear", "--lora-r", "16", "--lora-alpha", "32"],
    "rslora": ["--target-modules", "all-linear", "--use-rslora", "--lora-r", "8", "--lora-alpha", "16"],
    "norms": ["--modules-to-save", "norm,input_layernorm"],
    "head": ["--modules-to-save", "lm_head", "--lora-r", "4"],
    "embedding": ["--modules-to-save", "embed_tokens", "--lora-r", "4"],
}
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Naïve café: 12 + 30?\n"},
        {"role": "assistant", "content": "42."}, {"role": "user", "content": "Thanks 😀"}]
failures = []


def graft(*args):
    done = subprocess.run([GRAFT, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.stderr}"


def check(what, value, limit):
    print(f"  {what:<58} {value:.2e}" + ("" if value <= limit else "   TOO LARGE"), flush=True)
    if not value <= limit:
        failures.append(what)


def same(what, a, b):
    if a != b:
        print(f"  {what}: DIFFERS: {str(a)[:300]} and {str(b)[:300]}")
        failures.append(what)


def error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def logits_of(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def graft_logits(tmp, ids, model, adapter=None):
    save_file({"input_ids": ids}, tmp / "in.safetensors")
    more = ["--adapter", adapter] if adapter else []
    graft("forward", "-m", model, *more, "--dtype", "f32", "--input", tmp / "in.safetensors", "--output", tmp / "out.safetensors")
    return load_file(tmp / "out.safetensors")["logits"]


def load(path, **more):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **more)


def config_of(path):
    config = AutoConfig.from_pretrained(path).to_dict()
    for key in ("dtype", "torch_dtype", "_name_or_path", "transformers_version"):
        config.pop(key, None)
    return config


def tiny_models(tmp):
    for path in sorted(p for p in pathlib.Path("tests/golden/models").iterdir() if p.is_dir()):
        torch.manual_seed(SEED)
        model = load(path)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules="all-linear", init_lora_weights=False)
        peft = get_peft_model(model, config)
        peft.save_pretrained(tmp / path.name / "adapter")
        ids = torch.randint(3, peft.config.vocab_size, (2, 24))
        graft("merge", "-m", path, "--adapter", tmp / path.name / "adapter", "-o", tmp / path.name / "merged", "--outtype", "f32")
        merged = tmp / path.name / "merged"
        check(f"{path.name}: transformers on merged", error(logits_of(load(merged), ids), logits_of(peft, ids)), LIMIT)
        before, after = config_of(path), config_of(merged)
        for key in sorted({*before, *after}):
            same(f"{path.name}: {key}", before.get(key), after.get(key))


def decoded(model):
    """Every weight that bitsandbytes holds, as float32."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    out = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            out[name] = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        elif isinstance(module, Linear8bitLt):
            out[name] = module.weight.data.float() * (module.weight.SCB.float() / 127)[:, None]
    return out


def quantised_models(tmp):
    torch.manual_seed(SEED)
    config = LlamaConfig(vocab_size=96, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2)
    path = tmp / "wide"
    LlamaForCausalLM(config).save_pretrained(path)
    cases = {"nf4": ["--load-in-4bit"], "fp4": ["--load-in-4bit", "--bnb-4bit-quant-type", "fp4"],
             "nf4_double": ["--load-in-4bit", "--bnb-4bit-use-double-quant"], "int8": ["--load-in-8bit"]}
    for name, options in cases.items():
        how = BitsAndBytesConfig(load_in_8bit=True) if name == "int8" else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=name[:3], bnb_4bit_use_double_quant=name == "nf4_double", bnb_4bit_compute_dtype=torch.float32)
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules="all-linear", init_lora_weights=False)
        peft = get_peft_model(load(path, quantization_config=how, device_map="cpu"), lora)
        peft.save_pretrained(tmp / name / "adapter")
        graft("merge", "-m", path, *options, "--adapter", tmp / name / "adapter", "-o", tmp / name / "ours")
        a, b = decoded(peft.merge_and_unload()), decoded(load(tmp / name / "ours"))
        same(f"{name}: quantised modules", sorted(a), sorted(b))
        off = sum((abs(a[k] - b[k]) > 1e-5 * a[k].abs().max()).sum().item() for k in a)
        check(f"{name}: share of weights that peft has elsewhere", off / sum(x.numel() for x in a.values()), 1e-3)


def graft_ids(model, texts):
    lines = "".join(json.dumps(t) + "\n" for t in texts)
    done = subprocess.run([GRAFT, "tokenize", "-m", model, "--jsonl"], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def same_text(what, source, base, merged, data):
    """transformers takes no notice of a GGUF file's pre-tokeniser (here one that cuts numbers into digits): texts with
    digits are compared with it only where the source is a directory."""
    ours = AutoTokenizer.from_pretrained(merged)
    texts = [json.loads(line)["prompt"][0]["content"] for line in data.open(encoding="utf-8")][:200]
    texts += ["", " ", "<|im_start|>user\n<|im_end|>", "héllo  wörld\t\u200d🙂 12345 ไทย 漢字"]
    same(f"{what}: ids as graft has them", graft_ids(source, texts), [ours(t, add_special_tokens=False).input_ids for t in texts])
    plain = [t for t in texts if source.is_dir() or not any(c.isnumeric() for c in t)]
    for special in (True, False):
        same(f"{what}: ids of {len(plain)} texts", [base(t, add_special_tokens=special).input_ids for t in plain],
             [ours(t, add_special_tokens=special).input_ids for t in plain])
    ids = ours(texts[0]).input_ids
    same(f"{what}: decoded", base.decode(ids), ours.decode(ids))
    for prompt in (True, False):
        for talk in (TALK, TALK[1:]):
            same(f"{what}: rendering", base.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt),
                 ours.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt))
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        same(f"{what}: {role}", getattr(base, role), getattr(ours, role))


def real_model(tmp, file, data):
    base_of = dict(pretrained_model_name_or_path=file.parent, gguf_file=file.name)
    tokenizer = AutoTokenizer.from_pretrained(**base_of)
    decoded = AutoModelForCausalLM.from_pretrained(**base_of, dtype=torch.float32)
    config = decoded.config.to_dict()
    config.pop("quantization_config", None)  # decoded, but a model that says it is quantised is not written
    model = AutoModelForCausalLM.from_config(type(decoded.config).from_dict(config))
    model.load_state_dict(decoded.state_dict())
    hf = tmp / "hf"
    model.save_pretrained(hf)
    tokenizer.save_pretrained(hf)
    del model, decoded
    ids = torch.stack([tokenizer(" ".join(open(data, encoding="utf-8").read()[k:k + 2000].split()), return_tensors="pt").input_ids[0][:96]
                       for k in (0, 5000)])
    for name, options, source in [*((n, o, file) for n, o in VARIANTS.items()), ("directory", VARIANTS["all-linear"], hf)]:
        print(name)
        adapter, merged = tmp / name, tmp / f"{name}-merged"
        graft("sft", "-m", source, "--data", data, "-o", adapter, "--dtype", "f32", "--max-steps", 4, "-b", 2, "--learning-rate", "1e-3",
              "--lr-scheduler-type", "constant", "--max-length", 256, "--save-strategy", "no", "--seed", SEED, "-q", *options)
        graft("merge", "-m", source, "--adapter", adapter, "-o", merged, "--outtype", "f32")
        ours = graft_logits(tmp, ids, source, adapter)
        check("graft: merged against base + adapter", error(graft_logits(tmp, ids, merged), ours), LIMIT)
        base = load(hf)
        plain = logits_of(base, ids)
        peft = logits_of(PeftModel.from_pretrained(base, adapter), ids)
        del base
        check("peft on the adapter against graft", error(peft, ours), LIMIT)
        theirs, info = load(merged, output_loading_info=True)
        same("missing and unexpected tensors", [], [*info["missing_keys"], *info["unexpected_keys"]])
        check("transformers on the merged directory against graft", error(logits_of(theirs, ids), ours), LIMIT)
        print(f"  (the adapter moves the logits by {error(ours, plain):.2e})")
        same_text(name, source, tokenizer, merged, data)
        same(f"{name}: generation settings", load(hf).generation_config.eos_token_id, theirs.generation_config.eos_token_id)
        if source == hf:
            for f in sorted(p.name for p in hf.iterdir() if p.name.startswith(("tokenizer", "chat_template", "special", "generation"))):
                same(f"{name}: {f}", (hf / f).read_bytes(), (merged / f).read_bytes())
            for key, value in config_of(hf).items():
                same(f"{name}: {key}", value, config_of(merged).get(key))


def main():
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as tmp:
        tiny_models(pathlib.Path(tmp))
        quantised_models(pathlib.Path(tmp))
        if len(sys.argv) > 3:
            real_model(pathlib.Path(tmp), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    print("everything agrees" if not failures else f"FAILED: {', '.join(failures)}")
    sys.exit(bool(failures))


main()
