#!/usr/bin/env python3
"""Makes tests/golden/methods: adapters of the methods besides LoRA that peft wrote for the tiny models of make_models.py,
with what peft computes.

Made with torch 2.13.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, seed 20260803.
Usage: python tools/golden/make_methods.py [NAME ...]   (run in the project's root, after make_models.py)

NAME/ is an adapter directory as in make_adapters.py; where the method has a prompt encoder its state stands beside in
prompt_encoder.safetensors, which peft itself does not write. NAME/golden.safetensors holds:
  input_ids, attention_mask, labels (B,T) int64: what went in
  logits: every 5th element of (B,T,V), virtual tokens included where peft has them, masked positions set to zero; loss (1);
  merged: the same from merge_and_unload (cases in MERGED)
  grad.NAME: every gradient, NAME as in adapter_model.safetensors, or prompt_encoder.NAME
  steps (10): losses of 10 steps of torch.optim.AdamW(lr 1e-2, weight_decay 0.01)
  generated (2,6) int64: the greedy continuations of the first 9 tokens of rows 0 and 2
The model is in evaluation mode: dropout is off."""
import json
import pathlib
import shutil
import sys
import warnings

import numpy as np
import peft
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from transformers import AutoModelForCausalLM

SEED = 20260803
MODELS = pathlib.Path("tests/golden/models")
OUT = pathlib.Path("tests/golden/methods")
STRIDE = 5

CASES = {  # name: (base, configuration)
    "ia3": ("llama", peft.IA3Config()),
    "ia3_qwen2": ("qwen2_sliding", peft.IA3Config()),
    "ia3_chosen": ("llama_bias", peft.IA3Config(target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
                                                feedforward_modules=["o_proj", "down_proj"], modules_to_save=["norm"])),
    "ia3_all": ("qwen3", peft.IA3Config(target_modules="all-linear", feedforward_modules=[], exclude_modules=["k_proj"])),
    "prompt": ("llama", peft.PromptTuningConfig(num_virtual_tokens=5)),
    "prompt_dynamic": ("llama_dynamic", peft.PromptTuningConfig(num_virtual_tokens=3)),
    "prompt_sliding": ("mistral", peft.PromptTuningConfig(num_virtual_tokens=4)),
    "prefix": ("llama", peft.PrefixTuningConfig(num_virtual_tokens=5)),
    "prefix_sliding": ("mistral", peft.PrefixTuningConfig(num_virtual_tokens=6)),
    "prefix_dynamic": ("llama_dynamic", peft.PrefixTuningConfig(num_virtual_tokens=4)),
    "prefix_projection": ("llama_tied", peft.PrefixTuningConfig(num_virtual_tokens=4, prefix_projection=True,
                                                                encoder_hidden_size=12)),
    "p_mlp": ("llama", peft.PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=12)),
    "p_lstm": ("llama", peft.PromptEncoderConfig(num_virtual_tokens=6, encoder_hidden_size=7,
                                                 encoder_reparameterization_type="LSTM")),
    "p_lstm_deep": ("qwen3", peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=5, encoder_num_layers=3,
                                                      encoder_reparameterization_type="LSTM", encoder_dropout=0.1)),
    "norms_default": ("llama", peft.LNTuningConfig()),
    "norms_chosen": ("qwen3", peft.LNTuningConfig(target_modules=["input_layernorm", "q_norm", "norm"], exclude_modules=["k_norm"],
                                                  modules_to_save=["lm_head"])),
    "dora": ("llama", peft.LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
                                      lora_alpha=6)),
    "dora_bias": ("llama_bias", peft.LoraConfig(r=3, use_dora=True, target_modules="all-linear", use_rslora=True)),
    "dora_bias_own": ("llama_bias", peft.LoraConfig(r=3, use_dora=True, bias="lora_only",
                                                    target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])),
    "llama_adapter_bias": ("llama_bias", peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1)),
    "vera": ("llama", peft.VeraConfig(r=6, target_modules=["q_proj", "v_proj", "down_proj"], projection_prng_key=7)),
    "vera_key": ("llama_bias", peft.VeraConfig(r=5, save_projection=False, d_initial=0.3, target_modules="all-linear")),
    "loha": ("llama", peft.LoHaConfig(r=3, alpha=5, target_modules=["q_proj", "v_proj", "up_proj"], modules_to_save=["norm"])),
    "loha_patterns": ("qwen3", peft.LoHaConfig(r=2, alpha=2, target_modules="all-linear", rank_pattern={"o_proj": 3},
                                               alpha_pattern={"o_proj": 6}, exclude_modules=["k_proj"])),
    "lokr": ("llama", peft.LoKrConfig(r=2, alpha=3, target_modules=["q_proj", "k_proj", "down_proj"])),
    "lokr_both": ("llama_bias", peft.LoKrConfig(r=1, alpha=2, decompose_both=True, decompose_factor=4,
                                                target_modules="all-linear")),
    "lokr_full": ("llama", peft.LoKrConfig(r=20, alpha=20, target_modules=["v_proj", "gate_proj"])),
    "llama_adapter": ("llama", peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=1)),
    "llama_adapter_all": ("mistral", peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2)),
}
MERGED = {"ia3", "ia3_qwen2", "ia3_chosen", "ia3_all", "norms_chosen", "dora", "dora_bias", "dora_bias_own", "vera", "vera_key", "loha", "loha_patterns", "lokr",
          "lokr_both", "lokr_full"}
GENERATED = {"prompt", "prefix", "prefix_sliding", "p_mlp", "ia3"}


def stored(name):
    name = name.replace(".modules_to_save.default", "")
    name = name.replace("prompt_encoder.default.", "prompt_encoder.")
    name = name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")
    return name.replace(".default", "")


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
    ahead = logits.shape[1] - mask.shape[1]
    logits[:, ahead:][mask == 0] = 0
    return logits.reshape(-1)[::STRIDE].numpy().copy()


def grad_name(name, config):
    name = stored(name)
    whole = config.peft_type in ("PROMPT_TUNING", "PREFIX_TUNING") and not getattr(config, "prefix_projection", False)
    return "prompt_embeddings" if whole and name.startswith("prompt_encoder.") else name


def save(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(path)
    (path / "README.md").unlink()
    config = json.loads((path / "adapter_config.json").read_text())
    for key in ("target_modules", "exclude_modules", "feedforward_modules"):  # sets, in no order of their own
        if isinstance(config.get(key), list):
            config[key].sort()
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    state = {stored(n): p.detach().clone().contiguous() for n, p in model.named_parameters() if "prompt_encoder." in n}
    if any(not n.endswith("prompt_encoder.embedding.weight") for n in state):
        save_torch({n[len("prompt_encoder."):]: p for n, p in state.items()}, path / "prompt_encoder.safetensors")


def make(name):
    base, config = CASES[name]
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    config.task_type = "CAUSAL_LM"
    model = AutoModelForCausalLM.from_pretrained(MODELS / base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model, config)
    g = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=g) * (0.3 if "adaption_gate" in n else 0.2))
    model.eval()
    save(model, path)
    inputs, golden = batch(model)
    out = model(**inputs)
    out.loss.backward()
    golden["logits"] = sample(out.logits, inputs["attention_mask"])
    golden["loss"] = out.loss.detach().reshape(1).numpy()
    for n, p in model.named_parameters():
        if p.requires_grad:
            golden["grad." + grad_name(n, config)] = p.grad.numpy().copy()
    params = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=1e-2, weight_decay=0.01)
    losses = []
    for _ in range(10):
        out = model(**inputs)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    golden["steps"] = np.array(losses, np.float32)
    with torch.no_grad():
        for p, b in zip(params, before):
            p.copy_(b)
    if name in GENERATED:
        tokens = []
        with torch.no_grad():
            for row in (0, 2):
                ids = inputs["input_ids"][row:row + 1, 3:12]
                for _ in range(6):  # without a cache: nothing of generate's own handling
                    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                    ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
                tokens.append(ids[0, 9:])
        golden["generated"] = torch.stack(tokens).numpy()
    if name in MERGED:
        golden["merged"] = sample(model.merge_and_unload()(**inputs).logits, inputs["attention_mask"])
    save_file(golden, path / "golden.safetensors", metadata={"stride": str(STRIDE)})


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or CASES:
        make(name)
        print(name, flush=True)


if __name__ == "__main__":
    main()
