#!/usr/bin/env python3
"""Makes tests/golden/family_methods: adapters of every method on GPT-2, BERT, RoBERTa, T5 and classification heads,
and of the methods that make_methods.py does not have on the tiny Llama, as peft wrote them, with what peft computes.

Made with torch 2.13.0, transformers 5.24.0, peft 0.21.2, safetensors 0.8.0, seed 20260806.
Usage: python tools/golden/make_family_methods.py [NAME ...]   (in the project's root, after make_families.py)

cases.txt has a line a case: name, base (a path under tests/golden), method (peft_type, or BITFIT), task type ("-":
none). NAME/ is an adapter directory as in make_methods.py (all values random, so that nothing is a no-op), with the
state of a prompt encoder in prompt_encoder.safetensors; of BitFit, which peft does not have, bitfit.safetensors holds
all biases, and the classifier whole, under transformers' names. NAME/golden.safetensors holds:
  what went in: the base's own inputs of make_families.py (its causal ones of Llama), and task_ids (B) of multitask
    prompts
  logits: of language models rows of masked positions set to zero, virtual tokens in front where peft has them
  loss (1)
  grad.NAME of every trained tensor, NAME as in adapter_model.safetensors, or prompt_encoder.NAME
  merged: the same as logits from merge_and_unload, where the method merges
  steps (10): losses of 10 steps of torch.optim.AdamW(lr 1e-2, weight_decay 0.01); of AdaLoRA with
    update_and_allocate(i) after step i = 0..9, and final.NAME: what lora_E is in the end
  generated (2,N) int64, greedy: causal, 6 tokens after tokens 3 to 11 alone of rows 0 and 2; seq2seq, 8 tokens after
    the start token for rows 0 and 2
Logits and gradients of more than 256 elements are kept as every k-th element of the flat tensor, in one dimension; k
stands in the metadata ("stride"). Gradients that are zero but for rounding are written as zeros. The models are in
evaluation mode. What peft reads back from each directory gives the same logits.

NAME_initial, NAME_converted of gpt2_pissa, llama_pissa and llama_olora: what peft had before anything was trained, and
what save_pretrained(path_initial_model_for_weight_conversion=) wrote: LoRA of twice the rank for the untouched base.
Their golden.safetensors has inputs, logits and loss. The first two directories change the base as their
init_lora_weights says. Of PiSSA they have "exact" too: the logits with all in double precision. The reference takes
the singular triplets in single precision, and where two neighbouring ones are nearly equal, as in gpt2 (2.925 and
2.909), what it takes out of the weight is another part than the largest triplets: its logits are 5e-5 off, and with a
decomposition in double alone 4e-7.

llama_multitask/START.safetensors: what an adapter of one task begins as with that prompt_tuning_init, task 1, and
llama_multitask as its source.

NAME_trained of AdaLoRA: what peft saved after those 10 steps, ranks left out. Its golden.safetensors has inputs, logits,
loss and merged.

Ways of the reference that show in the numbers:
- Prefix tuning on T5: rows in front of the decoder's own attention only. peft shapes them wrongly: layer j gets the
  key and value rows of layer 2j modulo the number of layers. Their distance to a token counts as if they stood before
  it. It wants d_kv = d_model / num_heads.
- Prompt and P-tuning on T5: tokens in front of the encoder. With num_transformer_submodules 2, the default, twice the
  tokens are made and kept, and the second half is not used (the LSTM runs over all).
- Prompts and classifiers of the last token (gpt2_cls, llama_cls): peft gives embeddings, so that the model cannot see
  pads and takes the last position of each row, pad or not.
- Prompts and RoBERTa: positions count all tokens, pads too, from pad + 1. Prompts and BERT: the first virtual token
  stands at position 0 and is what the classifier sees; its token type is 0. With prefixes positions begin behind
  them.
- Multitask prompts on T5: with num_transformer_submodules 2 the decoder has tokens in front too, but not in generate;
  with 1 its forward takes labels only, no decoder_input_ids.
- T5 classifiers: peft trains "classifier" and "score" whole, and T5's "classification_head" only where modules_to_save
  names it (t5_cls_lora_frozen does not). It cannot put prompts or prefixes in front: the reference's forward takes
  tokens alone.
- AdaLoRA: the loss has the penalty of orthogonality in it.
- LLaMA-Adapter on GPT-2: what the prompts give is added behind c_proj without passing it; on Llama it passes o_proj.
  Classifiers stay frozen.

peft 0.21 lacks: prefix tuning of T5 where d_kv is not d_model / num_heads; LayerNorm tuning of BERT and RoBERTa
without target_modules; LLaMA-Adapter on BERT, RoBERTa and T5; prompts of any kind without a task type, so on masked
language models; LoHa, LoKr and OFT on GPT-2's Conv1D; merging anything but LoRA, AdaLoRA and norms into a classifier of RoBERTa's or T5's; BitFit. With transformers
5.24 it finds no past_key_values in BERT, RoBERTa and classifiers, where prefix tuning looks for it: see OldNames."""
import inspect
import json
import pathlib
import re
import shutil
import sys
import tempfile
import warnings

import numpy as np
import peft
import torch
import transformers as tf
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

import make_families as families
from make_families import gradients, hide, keep

SEED = 20260806
GOLDEN = pathlib.Path("tests/golden")
OUT = GOLDEN / "family_methods"
STRIDE = families.STRIDE
CLASSES = {"CAUSAL_LM": tf.AutoModelForCausalLM, "SEQ_CLS": tf.AutoModelForSequenceClassification,
           "SEQ_2_SEQ_LM": tf.AutoModelForSeq2SeqLM, None: tf.AutoModelForMaskedLM}
C, S, T = "CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM"

LORA, IA3, PROMPT, PREFIX, P = (peft.LoraConfig, peft.IA3Config, peft.PromptTuningConfig, peft.PrefixTuningConfig,
                                peft.PromptEncoderConfig)
NORMS, LLAMA_ADAPTER, MULTITASK = peft.LNTuningConfig, peft.AdaptionPromptConfig, peft.MultitaskPromptTuningConfig
CROSS = r"decoder\..*\.EncDecAttention\.(q|k|v|o)"
LLAMA = "models/llama"
HEAD = dict(modules_to_save=["classification_head"])

CASES = {  # name: (base, task type, configuration class, settings[, inputs other than the base's own])
    "gpt2_lora": ("families/gpt2", C, LORA, dict(r=4)),
    "gpt2_lora_all": ("families/gpt2", C, LORA, dict(r=3, lora_alpha=12, bias="all", fan_in_fan_out=True,
                                                     target_modules=["c_attn", "c_proj", "c_fc"])),
    "gpt2_lora_own": ("families/gpt2_inner", C, LORA, dict(r=2, bias="lora_only", fan_in_fan_out=True,
                                                           target_modules="all-linear", modules_to_save=["ln_f"])),
    "gpt2_lora_wte": ("families/gpt2", C, LORA, dict(r=2, target_modules=["wte", "c_fc"], fan_in_fan_out=True)),
    "gpt2_rslora": ("families/gpt2_hub", C, LORA, dict(r=4, use_rslora=True, lora_alpha=6, fan_in_fan_out=True,
                                                       target_modules=["attn.c_proj", "c_fc"])),
    "gpt2_dora": ("families/gpt2", C, LORA, dict(r=4, use_dora=True, fan_in_fan_out=True,
                                                 target_modules=["c_attn", "c_proj"])),
    "gpt2_ia3": ("families/gpt2", C, IA3, {}),
    "gpt2_prompt": ("families/gpt2", C, PROMPT, dict(num_virtual_tokens=5)),
    "gpt2_prefix": ("families/gpt2", C, PREFIX, dict(num_virtual_tokens=5)),
    "gpt2_prefix_projection": ("families/gpt2", C, PREFIX, dict(num_virtual_tokens=4, prefix_projection=True,
                                                                encoder_hidden_size=12)),
    "gpt2_p_mlp": ("families/gpt2", C, P, dict(num_virtual_tokens=5, encoder_hidden_size=12)),
    "gpt2_p_lstm": ("families/gpt2", C, P, dict(num_virtual_tokens=4, encoder_hidden_size=7,
                                                encoder_reparameterization_type="LSTM")),
    "gpt2_norms": ("families/gpt2", C, NORMS, {}),
    "gpt2_llama_adapter": ("families/gpt2", C, LLAMA_ADAPTER, dict(adapter_len=4, adapter_layers=1)),
    "gpt2_llama_adapter_all": ("families/gpt2", C, LLAMA_ADAPTER, dict(adapter_len=3, adapter_layers=2)),
    "gpt2_bitfit": ("families/gpt2", C, None, {}),
    "gpt2_adalora": ("families/gpt2", C, peft.AdaLoraConfig, dict(init_r=4, target_r=2, total_step=10, tinit=2,
                                                                  tfinal=3, deltaT=1, fan_in_fan_out=True)),
    "gpt2_vera": ("families/gpt2", C, peft.VeraConfig, dict(r=5, fan_in_fan_out=True)),
    "gpt2_pissa": ("families/gpt2", C, LORA, dict(r=3, init_lora_weights="pissa", fan_in_fan_out=True)),

    "gpt2_cls_lora": ("families/gpt2_cls", S, LORA, dict(r=4)),
    "gpt2_cls_ia3": ("families/gpt2_cls", S, IA3, {}),
    "gpt2_cls_prompt": ("families/gpt2_cls", S, PROMPT, dict(num_virtual_tokens=4)),
    "gpt2_cls_prefix": ("families/gpt2_cls", S, PREFIX, dict(num_virtual_tokens=4)),
    "gpt2_cls_p_mlp": ("families/gpt2_cls", S, P, dict(num_virtual_tokens=4, encoder_hidden_size=12)),
    "gpt2_cls_llama_adapter": ("families/gpt2_cls", S, LLAMA_ADAPTER, dict(adapter_len=3, adapter_layers=1)),
    "llama_cls_lora": ("families/llama_cls", S, LORA, dict(r=4)),
    "llama_cls_ia3": ("families/llama_cls", S, IA3, {}),
    "llama_cls_prompt": ("families/llama_cls", S, PROMPT, dict(num_virtual_tokens=4)),
    "llama_cls_prefix": ("families/llama_cls", S, PREFIX, dict(num_virtual_tokens=4)),
    "llama_cls_llama_adapter": ("families/llama_cls", S, LLAMA_ADAPTER, dict(adapter_len=3, adapter_layers=1)),
    "llama_cls_norms": ("families/llama_cls", S, NORMS, {}),

    "bert_lora": ("families/bert", None, LORA, dict(r=4)),
    "bert_cls_lora": ("families/bert_cls", S, LORA, dict(r=4)),
    "bert_cls_lora_all": ("families/bert_cls", S, LORA, dict(r=2, bias="all",
                                                             target_modules=["query", "key", "value", "dense"])),
    "bert_multi_lora": ("families/bert_multi", S, LORA, dict(r=4)),
    "bert_regression_lora": ("families/bert_regression", S, LORA, dict(r=4)),
    "bert_cls_rslora": ("families/bert_cls", S, LORA, dict(r=4, use_rslora=True)),
    "bert_cls_dora": ("families/bert_cls", S, LORA, dict(r=4, use_dora=True)),
    "bert_cls_ia3": ("families/bert_cls", S, IA3, {}),
    "bert_cls_prompt": ("families/bert_cls", S, PROMPT, dict(num_virtual_tokens=5)),
    "bert_cls_prefix": ("families/bert_cls", S, PREFIX, dict(num_virtual_tokens=5)),
    "bert_cls_prefix_projection": ("families/bert_cls", S, PREFIX, dict(num_virtual_tokens=4, prefix_projection=True,
                                                                        encoder_hidden_size=12)),
    "bert_cls_p_mlp": ("families/bert_cls", S, P, dict(num_virtual_tokens=5, encoder_hidden_size=12)),
    "bert_cls_p_lstm": ("families/bert_cls", S, P, dict(num_virtual_tokens=4, encoder_hidden_size=7,
                                                        encoder_reparameterization_type="LSTM")),
    "bert_cls_norms": ("families/bert_cls", S, NORMS, dict(target_modules=["LayerNorm"])),
    "bert_cls_bitfit": ("families/bert_cls", S, None, {}),
    "bert_cls_adalora": ("families/bert_cls", S, peft.AdaLoraConfig, dict(init_r=4, target_r=2, total_step=10,
                                                                          tinit=2, tfinal=3, deltaT=1)),
    "bert_cls_vera": ("families/bert_cls", S, peft.VeraConfig, dict(r=6)),

    "roberta_lora": ("families/roberta", None, LORA, dict(r=4)),
    "roberta_cls_lora": ("families/roberta_cls", S, LORA, dict(r=4)),
    "roberta_cls_dora": ("families/roberta_cls", S, LORA, dict(r=4, use_dora=True)),
    "roberta_cls_ia3": ("families/roberta_cls", S, IA3, {}),
    "roberta_cls_prompt": ("families/roberta_cls", S, PROMPT, dict(num_virtual_tokens=5)),
    "roberta_cls_prefix": ("families/roberta_cls", S, PREFIX, dict(num_virtual_tokens=5)),
    "roberta_cls_p_mlp": ("families/roberta_cls", S, P, dict(num_virtual_tokens=5, encoder_hidden_size=12)),
    "roberta_cls_norms": ("families/roberta_cls", S, NORMS, dict(target_modules=["LayerNorm"])),
    "roberta_cls_bitfit": ("families/roberta_cls", S, None, {}),

    "t5_lora": ("families/t5", T, LORA, dict(r=4)),
    "t5_lora_decoder": ("families/t5", T, LORA, dict(r=2, target_modules=["q", "v"]), "decoder"),
    "t5_lora_cross": ("families/t5", T, LORA, dict(r=4, target_modules=CROSS)),
    "t5_lora_all": ("families/t5_gated", T, LORA, dict(r=2,
                                                       target_modules=["q", "k", "v", "o", "wi_0", "wi_1", "wo"])),
    "t5_lora_head": ("families/t5_gated", T, LORA, dict(r=2, modules_to_save=["lm_head"])),
    "t5_rslora": ("families/t5_gated", T, LORA, dict(r=4, use_rslora=True)),
    "t5_dora": ("families/t5", T, LORA, dict(r=4, use_dora=True)),
    "t5_ia3": ("families/t5", T, IA3, {}),
    "t5_gated_ia3": ("families/t5_gated", T, IA3, {}),
    "t5_ia3_cross": ("families/t5", T, IA3, dict(target_modules=r".*EncDecAttention\.(k|v)|.*DenseReluDense\.wi",
                                                 feedforward_modules=[])),
    "t5_prompt": ("families/t5", T, PROMPT, dict(num_virtual_tokens=5)),
    "t5_prompt_one": ("families/t5_gated", T, PROMPT, dict(num_virtual_tokens=4, num_transformer_submodules=1)),
    "t5_prefix": ("families/t5_even", T, PREFIX, dict(num_virtual_tokens=5)),
    "t5_prefix_projection": ("families/t5_even", T, PREFIX, dict(num_virtual_tokens=4, prefix_projection=True,
                                                                 encoder_hidden_size=12)),
    "t5_prefix_decoder": ("families/t5_even", T, PREFIX, dict(num_virtual_tokens=3), "decoder"),
    "t5_p_mlp": ("families/t5", T, P, dict(num_virtual_tokens=5, encoder_hidden_size=12)),
    "t5_p_lstm": ("families/t5", T, P, dict(num_virtual_tokens=4, encoder_hidden_size=7,
                                            encoder_reparameterization_type="LSTM")),
    "t5_norms": ("families/t5", T, NORMS, {}),
    "t5_adalora": ("families/t5", T, peft.AdaLoraConfig, dict(init_r=3, target_r=2, total_step=10, tinit=2, tfinal=3,
                                                              deltaT=1, target_modules=["q", "v"])),

    "llama_bitfit": ("models/llama_bias", C, None, {}),
    "llama_adalora": (LLAMA, C, peft.AdaLoraConfig, dict(init_r=4, target_r=2, total_step=10, tinit=2, tfinal=3,
                                                         deltaT=1)),
    "llama_adalora_all": (LLAMA, C, peft.AdaLoraConfig, dict(init_r=3, target_r=1, total_step=10, tinit=1, tfinal=2,
                                                             deltaT=2, lora_alpha=6, orth_reg_weight=0.1,
                                                             target_modules="all-linear")),
    "llama_vera": (LLAMA, C, peft.VeraConfig, dict(r=6)),
    "llama_vera_all": (LLAMA, C, peft.VeraConfig, dict(r=8, target_modules="all-linear", d_initial=0.3,
                                                       projection_prng_key=11)),
    "llama_loha": (LLAMA, C, peft.LoHaConfig, dict(r=4, alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])),
    "llama_lokr": (LLAMA, C, peft.LoKrConfig, dict(r=2, alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])),
    "llama_lokr_both": (LLAMA, C, peft.LoKrConfig, dict(r=1, alpha=2, decompose_both=True, decompose_factor=8,
                                                        target_modules=["k_proj", "gate_proj"])),
    "llama_oft": (LLAMA, C, peft.OFTConfig, dict(oft_block_size=8, target_modules=["q_proj", "v_proj", "down_proj"])),
    "llama_oft_cayley": (LLAMA, C, peft.OFTConfig, dict(r=2, oft_block_size=0, use_cayley_neumann=False, coft=False,
                                                        block_share=True, target_modules=["k_proj", "o_proj"])),
    "llama_dora_embed": (LLAMA, C, LORA, dict(r=3, use_dora=True, target_modules=["embed_tokens", "q_proj"])),
    "gpt2_dora_head": ("families/gpt2", C, LORA, dict(r=2, use_dora=True, fan_in_fan_out=True, target_modules=["lm_head", "c_attn"])),
    "bert_dora_head": ("families/bert", None, LORA, dict(r=2, use_dora=True, target_modules=["decoder", "query"])),
    "t5_dora_head": ("families/t5", T, LORA, dict(r=2, use_dora=True, target_modules=["lm_head", "q"])),
    "llama_oft_coft": (LLAMA, C, peft.OFTConfig, dict(oft_block_size=16, coft=True, eps=0.6, num_cayley_neumann_terms=3,
                                                      target_modules=["q_proj", "up_proj"])),
    "bert_cls_oft": ("families/bert_cls", S, peft.OFTConfig, dict(oft_block_size=7)),
    "t5_oft": ("families/t5", T, peft.OFTConfig, dict(r=8, oft_block_size=0, num_cayley_neumann_terms=6)),
    "llama_multitask": (LLAMA, C, MULTITASK, dict(num_virtual_tokens=4, num_tasks=3, num_ranks=2)),
    "llama_cls_multitask": ("families/llama_cls", S, MULTITASK, dict(num_virtual_tokens=3, num_tasks=3)),
    "bert_cls_multitask": ("families/bert_cls", S, MULTITASK, dict(num_virtual_tokens=4, num_tasks=4, num_ranks=2)),
    "t5_multitask": ("families/t5", T, MULTITASK, dict(num_virtual_tokens=4, num_tasks=3, num_ranks=3,
                                                       num_transformer_submodules=1)),
    "t5_cls_lora": ("families/t5_cls", S, LORA, dict(r=4, **HEAD)),
    "t5_cls_lora_frozen": ("families/t5_cls", S, LORA, dict(r=2, target_modules=["k", "wo", "dense", "out_proj"])),
    "t5_cls_dora": ("families/t5_cls", S, LORA, dict(r=3, use_dora=True, target_modules=["q", "o"], **HEAD)),
    "t5_cls_ia3": ("families/t5_cls", S, IA3, HEAD),
    "t5_cls_adalora": ("families/t5_cls", S, peft.AdaLoraConfig, dict(init_r=3, target_r=2, total_step=10, tinit=2,
                                                                      tfinal=3, deltaT=1, target_modules=["q", "v"],
                                                                      **HEAD)),
    "t5_cls_oft": ("families/t5_cls", S, peft.OFTConfig, dict(oft_block_size=8, target_modules=["k", "wi"], **HEAD)),
    "t5_multi_lora": ("families/t5_multi", S, LORA, dict(r=2, target_modules="all-linear", **HEAD)),
    "t5_multi_norms": ("families/t5_multi", S, NORMS, HEAD),
    "t5_multi_loha": ("families/t5_multi", S, peft.LoHaConfig, dict(r=3, target_modules=["q", "wi_0"], **HEAD)),
    "t5_regression_rslora": ("families/t5_regression", S, LORA, dict(r=4, use_rslora=True, lora_alpha=6, **HEAD)),
    "t5_regression_lokr": ("families/t5_regression", S, peft.LoKrConfig, dict(r=2, target_modules=["v", "wo"], **HEAD)),
    "t5_regression_vera": ("families/t5_regression", S, peft.VeraConfig, dict(r=5, target_modules=["q", "v"], **HEAD)),
    "llama_pissa": (LLAMA, C, LORA, dict(r=4, init_lora_weights="pissa")),
    "llama_olora": (LLAMA, C, LORA, dict(r=4, init_lora_weights="olora",
                                         target_modules=["q_proj", "k_proj", "down_proj"])),
}
NOT_MERGED = {"roberta_cls_ia3", "t5_cls_ia3", "t5_cls_oft", "t5_multi_loha", "t5_regression_lokr",
              "t5_regression_vera",  # peft 0.21.2 lacks: a classifier that is no single layer
              "gpt2_lora_wte", "gpt2_dora_head", "bert_dora_head", "t5_dora_head"}  # with a tied head the merged model is another
ALONE = {PROMPT, PREFIX, P, LLAMA_ADAPTER, MULTITASK, None}  # what does not merge


class OldNames:
    """peft 0.21 asks a model's forward for a parameter past_key_values, which transformers 5.24 calls cache and takes
    under both names."""

    def __getattr__(self, name):
        return getattr(inspect, name)

    @staticmethod
    def signature(f):
        old = inspect.signature(f)
        named = [p.replace(name="past_key_values") if p.name == "cache" else p for p in old.parameters.values()]
        return old.replace(parameters=named)


def inputs_of(base, task, other):
    config = tf.AutoConfig.from_pretrained(GOLDEN / base)
    kind = other or families.MODELS.get(base.split("/")[1], (0, 0, 0, "causal"))[3]
    return families.BATCHES[kind](config)


def stored(name):
    name = name.replace(".modules_to_save.default", "")
    name = name.replace("prompt_encoder.default.", "prompt_encoder.")
    name = name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")
    return re.sub(r"\.default(?=\.|$)", "", name)


def save(model, path, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(path, **more)
    (path / "README.md").unlink(missing_ok=True)
    config = json.loads((path / "adapter_config.json").read_text())
    for key in ("target_modules", "exclude_modules", "feedforward_modules"):  # sets, in no order of their own
        if isinstance(config.get(key), list):
            config[key].sort()
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    state = {stored(n): p.detach().clone().contiguous() for n, p in model.named_parameters() if "prompt_encoder." in n}
    if any("prompt_encoder.embedding.weight" not in n and "prefix_task" not in n for n in state):
        save_torch({n[len("prompt_encoder."):]: p for n, p in state.items()}, path / "prompt_encoder.safetensors")


def grad_name(name, config):
    name = stored(name)
    if name.startswith("prompt_encoder.") and not getattr(config, "prefix_projection", False) \
            and config.peft_type in ("PROMPT_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING"):
        name = name[len("prompt_encoder."):]
        return "prompt_embeddings" if name == "embedding.weight" else name
    return name


def disturb(model, scale):
    g = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=g) * (0.3 if "adaption_gate" in n else scale))


def likeliest(logits):
    top = logits[0, -1].topk(2).values
    assert top[0] - top[1] > 2e-4, "a tie"
    return logits[:, -1:].argmax(-1)


def greedy(model, batch, task):
    """Without a cache: nothing of generate's own handling."""
    rows = []
    with torch.no_grad():
        for row in (0, 2):
            extra = {"task_ids": batch["task_ids"][row:row + 1]} if "task_ids" in batch else {}
            if task == C:
                ids = batch["input_ids"][row:row + 1, 3:12]
                for _ in range(6):
                    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits
                    ids = torch.cat((ids, likeliest(logits)), 1)
                rows.append(ids[0, 9:])
            else:
                ids = torch.zeros(1, 1, dtype=torch.long)
                for _ in range(8):
                    logits = model(input_ids=batch["input_ids"][row:row + 1],
                                   attention_mask=batch["attention_mask"][row:row + 1], decoder_input_ids=ids).logits
                    ids = torch.cat((ids, likeliest(logits)), 1)
                rows.append(ids[0, 1:])
    return torch.stack(rows).numpy()


def wrap(base, task, cls, settings):
    model = CLASSES[task].from_pretrained(GOLDEN / base, dtype=torch.float32)
    if cls is None:  # BitFit: the biases, and a classifier whole
        for n, p in model.named_parameters():
            p.requires_grad = n.endswith("bias") or "classifier" in n or n.startswith("score")
        return model, None
    config = cls(task_type=task, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config), config


def measure(model, config, batch, task, trained_path):
    """Everything but the merged logits. trained_path: of AdaLoRA, where it is saved after the steps."""
    allocate = trained_path is not None
    golden = {n: x.numpy() for n, x in batch.items()}
    model.zero_grad()
    out = model(**batch)
    out.loss.backward()
    golden["logits"] = keep(hide(out.logits, batch))
    golden["loss"] = out.loss.detach().reshape(1).numpy()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    golden.update(gradients((grad_name(n, config) if config else n, p) for n, p in trained))
    before = [p.detach().clone() for _, p in trained]
    optimizer = torch.optim.AdamW([p for _, p in trained], lr=1e-2, weight_decay=0.01)
    losses = []
    for step in range(10):
        optimizer.zero_grad()
        out = model(**batch)
        out.loss.backward()
        optimizer.step()
        if allocate:
            model.base_model.update_and_allocate(step)
        losses.append(out.loss.item())
    golden["steps"] = np.array(losses, np.float32)
    if allocate:
        for n, p in trained:
            if "lora_E" in n:
                golden["final." + stored(n)] = p.detach().numpy().copy()
        shutil.rmtree(trained_path, ignore_errors=True)
        save(model, trained_path)
    with torch.no_grad():
        for (_, p), b in zip(trained, before):
            p.copy_(b)
    if task == C or task == T and "task_ids" not in batch:
        golden["generated"] = greedy(model, batch, task)
    return golden


def reloaded(base, task, path, batch, merge=False):
    """What peft makes of the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CLASSES[task].from_pretrained(GOLDEN / base, dtype=torch.float32)
        adalora = json.loads((path / "adapter_config.json").read_text())["peft_type"] == "ADALORA"  # fails with a loss
        model = peft.PeftModel.from_pretrained(model, path, is_trainable=adalora).eval()
    out = model(**batch)
    golden = {"logits": keep(hide(out.logits, batch)), "loss": out.loss.detach().reshape(1).numpy()}
    if merge:
        golden["merged"] = keep(hide(model.merge_and_unload()(**batch).logits, batch))
    return golden


def exact(base, task, path, batch):
    """Logits of a PiSSA adapter as it is before conversion, in double precision."""
    config = json.loads((path / "adapter_config.json").read_text())
    r, scale = config["r"], config["lora_alpha"] / config["r"]
    model = CLASSES[task].from_pretrained(GOLDEN / base, dtype=torch.float64).eval()
    with safe_open(path / "adapter_model.safetensors", "pt") as f, torch.no_grad():
        for name in f.keys():
            if not name.endswith(".lora_A.weight"):
                continue
            layer = model.get_submodule(name[len("base_model.model."):-len(".lora_A.weight")])
            weight = layer.weight.T if config["fan_in_fan_out"] else layer.weight
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            a, b = f.get_tensor(name).double(), f.get_tensor(name.replace("lora_A", "lora_B")).double()
            weight += scale * b @ a - u[:, :r] @ torch.diag(s[:r]) @ v[:r]
        logits = model(**batch).logits.float()
    return keep(hide(logits, batch))


def write(golden, path):
    save_file(golden, path / "golden.safetensors", metadata={"stride": str(STRIDE)})
    if (path / "adapter_model.safetensors").exists():
        with safe_open(path / "adapter_model.safetensors", "pt") as f:
            keys = set(f.keys())
        for n in golden:
            assert not n.startswith("grad.") or n[5:] in keys or n.startswith("grad.prompt_encoder."), (path, n)


def make_from_source(base, task, settings, path):
    """What another adapter begins as that has this one for its source."""
    for start in ("AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK"):
        more = dict(settings, num_tasks=1, prompt_tuning_init=start, prompt_tuning_init_task=1,
                    prompt_tuning_init_state_dict_path=str(path / "adapter_model.safetensors"))
        with tempfile.TemporaryDirectory() as copy:
            save(wrap(base, task, MULTITASK, more)[0], pathlib.Path(copy))
            shutil.copy(pathlib.Path(copy) / "adapter_model.safetensors", path / f"{start}.safetensors")


def make(name):
    base, task, cls, settings, *other = CASES[name]
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    batch = inputs_of(base, task, *(other or [None]))
    if cls is MULTITASK:
        batch["task_ids"] = torch.tensor([2, 0, 1, 1])[:len(batch["input_ids"])]
    torch.manual_seed(SEED)
    model, config = wrap(base, task, cls, settings)
    model.eval()
    initial = OUT / (name + "_initial")
    mutating = settings.get("init_lora_weights") in ("pissa", "olora")
    if mutating:
        shutil.rmtree(initial, ignore_errors=True)
        save(model, initial)
    disturb(model, 0.05 if mutating else 0.1 if cls in (LORA, None) else 0.2)
    if config:
        save(model, path)
    else:
        path.mkdir(parents=True)
        save_torch({n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad},
                   path / "bitfit.safetensors")
    trained = OUT / (name + "_trained") if cls is peft.AdaLoraConfig else None
    golden = measure(model, config, batch, task, trained)
    if config:
        assert np.abs(reloaded(base, task, path, batch)["logits"] - golden["logits"]).max() < 1e-4, name
    if trained:
        write({**{n: x.numpy() for n, x in batch.items()}, **reloaded(base, task, trained, batch, merge=True)}, trained)
    pissa = settings.get("init_lora_weights") == "pissa"
    if pissa:
        golden["exact"] = exact(base, task, path, batch)
    if mutating:
        converted = OUT / (name + "_converted")
        shutil.rmtree(converted, ignore_errors=True)
        with tempfile.TemporaryDirectory() as copy:  # peft writes into it
            shutil.copytree(initial, copy, dirs_exist_ok=True)
            save(model, converted, path_initial_model_for_weight_conversion=copy)
        for place in (initial, converted):
            again = reloaded(base, task, place, batch)
            more = {"exact": exact(base, task, place, batch)} if pissa and place == initial else {}
            write({**{n: x.numpy() for n, x in batch.items()}, **again, **more}, place)
        assert np.abs(again["logits"] - golden["logits"]).max() < 1e-3, name
    if cls not in ALONE and name not in NOT_MERGED:
        merged = hide(model.merge_and_unload()(**{n: x for n, x in batch.items() if n != "task_ids"}).logits, batch)
        golden["merged"] = keep(merged)
        assert np.abs(golden["merged"] - golden["logits"]).max() < 1e-3, name
    write(golden, path)
    if name == "llama_multitask":
        make_from_source(base, task, settings, path)


def write_cases():
    lines = []
    for name, (base, task, cls, settings, *_) in CASES.items():
        method = cls(**settings).peft_type.value if cls else "BITFIT"
        parts = [name] + [name + end for end in ("_initial", "_converted", "_trained") if (OUT / (name + end)).is_dir()]
        lines += [f"{part} {base} {method} {task or '-'}\n" for part in parts]
    (OUT / "cases.txt").write_text("".join(lines))


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tf.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()
    peft.peft_model.inspect = OldNames()
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or CASES:
        make(name)
        print(name, flush=True)
    write_cases()


if __name__ == "__main__":
    main()
