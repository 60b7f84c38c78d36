#!/usr/bin/env python3
"""Makes tests/golden/families: tiny random models of GPT-2, BERT, RoBERTa, T5 and of the classification heads, with
what transformers computes for them, in float32 on the CPU.

Made with torch 2.13.0, transformers 5.24.0, gguf 0.19.0, safetensors 0.8.0, seed 20260805.
Usage: python tools/golden/make_families.py [NAME ...]   (run in the project's root, after make_models.py)

Each NAME/ is a Hugging Face directory (weights rounded to the stored type first), NAME.gguf a GGUF file.
NAME/golden.safetensors (NAME.golden.safetensors) is one forward and backward pass, NAME/golden.VARIANT.safetensors
another pass of the same model:
  what went in, int64: input_ids, attention_mask (B,T), and where the case has them token_type_ids (B,T),
    decoder_input_ids, decoder_attention_mask (B,U)
  labels: (B,T) or (B,U) of language models, -100 where ignored; (B) int64, one class a row; (B,L) float32, several
    classes a row; (B) float32, regression
  logits: rows of masked positions set to zero (seq2seq: by decoder_attention_mask); loss (1)
  grad.NAME of every parameter, NAME as transformers has it (tied tensors under the first name); what is zero but for
    rounding, as the gradient of BERT's key biases, is written as zeros
  steps (20): losses of 20 steps of torch.optim.AdamW(lr 1e-2, weight_decay 0.01) on all parameters
  fill.ids, fill.scores (N,5): of masked language models, the five likeliest tokens and their probabilities at each
    visible mask token, in the order of the cells
  last_hidden_state (B,T,C), pooler_output (B,C), mean_pooled and sentence_embedding (B,C) of bert_embed: mean over
    visible tokens, and the same over its Euclidean length, as sentence-transformers does; no loss
Logits, last_hidden_state and gradients of more than 256 elements are kept as every k-th element of the flat tensor,
in one dimension; k stands in the metadata ("stride"). Where a token sees nothing at all (a masked one at a row's
beginning), the reference's attention gives zeros.
The models are in evaluation mode: dropout is off.

  gpt2             GPT2LMHeadModel, tied, gelu_new
  gpt2_inner       the same with n_inner 40, scale_attn_by_inverse_layer_idx, relu, not tied
  gpt2_hub         one layer, names as in the files of the first GPT-2s: no "transformer." in front, buffers
                   h.N.attn.bias
  g_gpt2_f16, g_gpt2_q8_0   GGUF as llama.cpp's converter writes it; the second with output.weight
  gpt2_cls, llama_cls       ForSequenceClassification: the last token that is not the pad token, whatever the mask
                            says
  bert             BertForMaskedLM, tied; golden.plain: without token_type_ids and mask
  bert_hub         one layer, old names: LayerNorm.gamma and .beta, cls.seq_relationship, pooler and position_ids kept
  bert_cls, bert_multi, bert_regression   BertForSequenceClassification of three problem types (the last two one
                                          layer)
  bert_embed       BertModel with the files of sentence-transformers, embeddings.position_ids
  roberta          RobertaForMaskedLM: positions count the tokens that are not pads, from pad + 1; rows padded right
                   and left with pads, and one with a hole of real tokens that only the mask hides
  roberta_cls      RobertaForSequenceClassification
  t5               T5ForConditionalGeneration as of v1.0: relu, tied, logits of the scaled hidden state; decoder
                   inputs are the labels shifted by one; golden.decoder: decoder_input_ids and decoder_attention_mask
                   given
  t5_even          the same with d_kv = d_model / num_heads, which peft's prefix tuning wants, and three layers
  t5_gated         as of v1.1 and Flan-T5: gated-gelu, one encoder and two decoder layers, lm_head of its own
                   (tie_word_embeddings false); the shared table stands in the file three times, as in theirs;
                   config.resaved.json is what transformers 5 writes for the same model, tie_word_embeddings true
                   beside scale_decoder_outputs false; golden.decoder as above
  t5_cls           T5ForSequenceClassification, one encoder and two decoder layers: rows padded right and left (the
                   decoder sees those pads), with a hole, with two end tokens in every row, the last of which counts;
                   golden.ends_decoder: decoder_input_ids and decoder_attention_mask given
  t5_multi, t5_regression   the same of the other problem types, one layer a part, gated
  generate.jsonl   one generation a line by transformers' generate: model (a path under tests/golden), options,
                   input_ids, sequences (what was added, up to and with the end token; of T5 without the start token),
                   scores of beams. float64 gives the same sequences."""
import json
import pathlib
import shutil
import sys
import warnings

import gguf
import numpy as np
import torch
import transformers as tf
from safetensors.numpy import save_file
from safetensors.torch import load_file, save_file as save_torch

SEED = 20260805
OUT = pathlib.Path("tests/golden/families")
STRIDE = 5
WHOLE = 256

GPT2 = dict(vocab_size=96, n_positions=40, n_embd=32, n_layer=2, n_head=4, n_inner=48, bos_token_id=1, eos_token_id=2,
            pad_token_id=0)
LLAMA = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
BERT = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32, type_vocab_size=2, pad_token_id=0)
ROBERTA = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
               max_position_embeddings=34, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
               layer_norm_eps=1e-5)
T5 = dict(vocab_size=96, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4, relative_attention_num_buckets=8,
          relative_attention_max_distance=14, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
MASK = 95  # the mask token's id

# name: (class, configuration, stored dtype, inputs)
MODELS = {
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config(**{**GPT2, "n_inner": None}), "bfloat16", "causal"),
    "gpt2_inner": (tf.GPT2LMHeadModel,
                   tf.GPT2Config(**{**GPT2, "n_inner": 40}, scale_attn_by_inverse_layer_idx=True,
                                 activation_function="relu", tie_word_embeddings=False), "float16", "causal"),
    "gpt2_hub": (tf.GPT2LMHeadModel, tf.GPT2Config(**{**GPT2, "n_layer": 1}), "float32", "causal"),
    "gpt2_cls": (tf.GPT2ForSequenceClassification, tf.GPT2Config(**{**GPT2, "n_layer": 1}, num_labels=3),
                 "bfloat16", "last"),
    "llama_cls": (tf.LlamaForSequenceClassification, tf.LlamaConfig(**LLAMA, num_labels=3), "bfloat16", "last"),
    "bert": (tf.BertForMaskedLM, tf.BertConfig(**BERT), "bfloat16", "mlm"),
    "bert_hub": (tf.BertForMaskedLM, tf.BertConfig(**{**BERT, "num_hidden_layers": 1}), "float32", "mlm"),
    "bert_cls": (tf.BertForSequenceClassification, tf.BertConfig(**BERT, num_labels=3), "bfloat16", "single"),
    "bert_multi": (tf.BertForSequenceClassification,
                   tf.BertConfig(**{**BERT, "num_hidden_layers": 1}, num_labels=4,
                                 problem_type="multi_label_classification"),
                   "bfloat16", "multi"),
    "bert_regression": (tf.BertForSequenceClassification,
                        tf.BertConfig(**{**BERT, "num_hidden_layers": 1}, num_labels=1), "bfloat16", "regression"),
    "bert_embed": (tf.BertModel, tf.BertConfig(**BERT), "float16", "embed"),
    "roberta": (tf.RobertaForMaskedLM, tf.RobertaConfig(**ROBERTA), "bfloat16", "mlm"),
    "roberta_cls": (tf.RobertaForSequenceClassification,
                    tf.RobertaConfig(**{**ROBERTA, "num_hidden_layers": 1}, num_labels=3), "bfloat16", "single"),
    "t5": (tf.T5ForConditionalGeneration, tf.T5Config(**T5), "bfloat16", "seq2seq"),
    "t5_even": (tf.T5ForConditionalGeneration, tf.T5Config(**{**T5, "d_kv": 8, "d_ff": 24, "num_layers": 3}),
                "bfloat16", "seq2seq"),
    "t5_gated": (tf.T5ForConditionalGeneration,
                 tf.T5Config(**{**T5, "num_layers": 1}, num_decoder_layers=2, feed_forward_proj="gated-gelu",
                             tie_word_embeddings=False), "bfloat16", "seq2seq"),
    "t5_cls": (tf.T5ForSequenceClassification, tf.T5Config(**{**T5, "num_layers": 1}, num_decoder_layers=2, num_labels=3),
               "bfloat16", "ends"),
    "t5_multi": (tf.T5ForSequenceClassification,
                 tf.T5Config(**{**T5, "num_layers": 1}, feed_forward_proj="gated-gelu", num_labels=4,
                             problem_type="multi_label_classification"), "bfloat16", "ends_multi"),
    "t5_regression": (tf.T5ForSequenceClassification,
                      tf.T5Config(**{**T5, "num_layers": 1}, feed_forward_proj="gated-gelu", num_labels=1),
                      "bfloat16", "ends_regression"),
}
GGUF = {  # file: (type of the 2-D tensors, output.weight)
    "g_gpt2_f16": ("F16", False),
    "g_gpt2_q8_0": ("Q8_0", True),
}


def fill(model, seed, dtype):
    """Weights at a scale where every part of the model matters; rounded to the stored type."""
    g = torch.Generator().manual_seed(seed)
    conv = {n for n, m in model.named_modules() if type(m).__name__ == "Conv1D"}
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = torch.randn(p.shape, generator=g)
            module = name.rsplit(".", 1)[0]
            if "norm" in name.lower() or ".ln_" in name:
                x = 0.2 * x + (1 if name.endswith("weight") else 0)
            elif name.endswith("bias"):
                x = 0.3 * x
            elif "relative_attention_bias" in name or name.endswith("shared.weight"):
                pass
            elif ".q.weight" in name:  # T5 does not scale its scores
                x = x / (p.shape[1] * model.config.d_kv) ** 0.5
            elif any(k in name for k in ("wte", "wpe", "_embeddings")):
                x = 0.4 * x
            elif "embed_tokens" not in name:
                x = 1.2 * x / p.shape[0 if module in conv else 1] ** 0.5
            p.copy_(x.to(dtype).float())


def random_ids(shape, low, salt):
    return torch.randint(low, MASK, shape, generator=torch.Generator().manual_seed(SEED + salt))


def causal(config):
    """Rows: whole; padded left, whose first real token has a label; padded left and right with a prompt that has no
    labels and a hole after which a token has a label (the reference takes logits of the masked token before such)."""
    ids = random_ids((3, 26), 3, 1)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    mask[2, :3] = 0
    mask[2, 12:14] = 0
    mask[2, 21:] = 0
    ids[mask == 0] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[2, 3:9] = -100
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def last(config):
    """Rows: whole; padded right; padded left; a pad token that the mask does not hide stands last."""
    ids = random_ids((4, 14), 3, 2)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    mask[2, :5] = 0
    ids[mask == 0] = 0
    ids[3, 13] = 0
    return dict(input_ids=ids, attention_mask=mask, labels=torch.tensor([2, 0, 1, 1]))


def encoder(config):
    """Rows: whole; padded right; a hole of real tokens that only the mask hides; the last without padding too."""
    ids = random_ids((4, 18), 5, 3)
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    ids[1, 11:] = config.pad_token_id
    mask[2, 6:9] = 0
    batch = dict(input_ids=ids, attention_mask=mask)
    if config.type_vocab_size > 1:
        batch["token_type_ids"] = (torch.arange(18) >= torch.tensor([[8], [5], [10], [18]])).long() * (mask != 0)
    return batch


def mlm(config):
    batch = encoder(config)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if config.model_type == "roberta":  # padded left
        mask[3, :4] = 0
        ids[3, :4] = config.pad_token_id
    chosen = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(SEED + 4)) < 0.3) & (mask != 0)
    batch["labels"] = ids.masked_fill(~chosen, -100)
    kept = torch.zeros_like(chosen)
    kept[0, ::5] = True  # some keep their token
    batch["input_ids"] = ids.masked_fill(chosen & ~kept, MASK)
    return batch


def single(config):
    return {**encoder(config), "labels": torch.tensor([1, 2, 0, 1])}


def multi_labels():
    return torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]]).float()


def multi(config):
    return {**encoder(config), "labels": multi_labels()}


def regression(config):
    return {**encoder(config), "labels": torch.tensor([0.5, -1.25, 2.0, 0.125])}


def seq2seq(config):
    """Encoder rows: whole; padded right; padded left; a hole. Labels end in the end token, then -100."""
    ids = random_ids((4, 22), 3, 5)
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    mask[2, :6] = 0
    mask[3, 8:11] = 0
    ids[mask == 0] = 0
    labels = random_ids((4, 17), 3, 6)
    for row, length in enumerate((17, 12, 5, 9)):
        labels[row, length - 1] = 1
        labels[row, length:] = -100
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def decoder(config):
    """Inputs of the decoder that are not the labels': rows whole, padded right, padded left, with a hole."""
    batch = seq2seq(config)
    ids = random_ids((4, 16), 3, 7)
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    mask[2, :4] = 0
    mask[3, 5:8] = 0
    ids[:, 0] = 0
    ids[mask == 0] = 0
    labels = random_ids((4, 16), 3, 8).masked_fill(mask == 0, -100)
    batch.update(decoder_input_ids=ids, decoder_attention_mask=mask, labels=labels)
    return batch


def ends(config):
    """Rows of two texts, each with its end token: whole; padded right; padded left; a hole."""
    ids = random_ids((4, 17), 3, 11)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    mask[2, :5] = 0
    mask[3, 3:6] = 0
    ids[mask == 0] = 0
    ids[torch.arange(4), torch.tensor([6, 4, 9, 8])] = 1
    ids[torch.arange(4), torch.tensor([16, 11, 16, 15])] = 1
    return dict(input_ids=ids, attention_mask=mask, labels=torch.tensor([2, 0, 1, 1]))


def ends_multi(config):
    return {**ends(config), "labels": multi_labels()}


def ends_regression(config):
    return {**ends(config), "labels": torch.tensor([0.5, -1.25, 2.0, 0.125])}


def ends_decoder(config):
    batch = ends(config)
    ids = random_ids((4, 17), 3, 12)
    mask = torch.ones_like(ids)
    mask[2, :4] = 0
    mask[3, 7:9] = 0
    ids[:, 0] = 0
    ids[mask == 0] = 0
    return {**batch, "decoder_input_ids": ids, "decoder_attention_mask": mask}


def plain(config):
    batch = mlm(config)
    return dict(input_ids=batch["input_ids"], labels=batch["labels"])


BATCHES = {f.__name__: f for f in (causal, last, mlm, single, multi, regression, seq2seq, decoder, ends, ends_multi,
                                    ends_regression, ends_decoder, plain)}
BATCHES["embed"] = encoder
VARIANTS = {"bert": ["plain"], "t5": ["decoder"], "t5_gated": ["decoder"], "t5_cls": ["ends_decoder"]}


def keep(x):
    x = x.detach()
    return (x if x.numel() <= WHOLE else x.reshape(-1)[::STRIDE]).numpy().copy()


def hide(logits, batch):
    """Zeros where nothing is to be held against the reference."""
    if logits.dim() != 3:
        return logits.detach()
    decodes = batch["labels"].shape[1] != batch["input_ids"].shape[1] or "decoder_input_ids" in batch
    mask = batch.get("decoder_attention_mask" if decodes else "attention_mask")
    logits = logits.detach().clone()
    if mask is not None:
        logits[:, logits.shape[1] - mask.shape[1]:][mask == 0] = 0  # virtual tokens stand in front
    return logits


def gradients(parameters):
    """Those that are zero but for rounding, as zeros: nothing depends on the bias of a key that all tokens share."""
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in parameters}
    largest = max(x.abs().max() for x in grads.values())
    return {"grad." + n: keep(x if x.abs().max() > 1e-6 * largest else torch.zeros_like(x)) for n, x in grads.items()}


def run(model, batch):
    model.eval()
    model.zero_grad()
    golden = {n: x.numpy() for n, x in batch.items()}
    out = model(**batch)
    if "labels" not in batch:
        mask = batch["attention_mask"][..., None]
        hidden = out.last_hidden_state.masked_fill(mask == 0, 0)
        mean = hidden.sum(1) / mask.sum(1)
        golden.update(last_hidden_state=keep(hidden), pooler_output=keep(out.pooler_output), mean_pooled=keep(mean),
                      sentence_embedding=keep(torch.nn.functional.normalize(mean, dim=1)))
        return golden
    out.loss.backward()
    golden["logits"] = keep(hide(out.logits, batch))
    golden["loss"] = out.loss.detach().reshape(1).numpy()
    golden.update(gradients(model.named_parameters()))
    masks = batch["input_ids"] == MASK
    if masks.any():
        if "attention_mask" in batch:
            masks &= batch["attention_mask"] != 0
        top = torch.softmax(out.logits.detach()[masks], -1).topk(5)
        golden["fill.ids"], golden["fill.scores"] = top.indices.numpy(), top.values.numpy()
    return golden


def steps(model, batch):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    losses = []
    for _ in range(20):
        out = model(**batch)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(before[n])
    return np.array(losses, np.float32)


def edit_config(path, **more):
    config = json.loads((path / "config.json").read_text())
    for key, value in more.items():
        if value is None:
            del config[key]
        else:
            config[key] = value
    (path / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def rename(path, name, dtype):
    """Files as other writers have them."""
    file = path / "model.safetensors"
    state = load_file(file)
    if name == "gpt2_hub":
        state = {n.removeprefix("transformer."): x for n, x in state.items()}
        state["h.0.attn.bias"] = torch.tril(torch.ones(40, 40))[None, None]
    elif name == "bert_hub":
        old = {}
        for n, x in state.items():
            old[n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = x
        g = torch.Generator().manual_seed(SEED + 9)
        old.update({"bert.pooler.dense.weight": torch.randn(32, 32, generator=g),
                    "bert.pooler.dense.bias": torch.randn(32, generator=g),
                    "cls.seq_relationship.weight": torch.randn(2, 32, generator=g),
                    "cls.seq_relationship.bias": torch.zeros(2),
                    "bert.embeddings.position_ids": torch.arange(32)[None]})
        state = old
    elif name == "bert_embed":
        state["embeddings.position_ids"] = torch.arange(32)[None]
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling/config.json").write_text(json.dumps({
            "word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}, indent=2) + "\n")
        parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        (path / "modules.json").write_text(json.dumps([
            {"idx": i, "name": str(i), "path": where, "type": "sentence_transformers.models." + what}
            for i, (where, what) in enumerate(parts)], indent=2) + "\n")
    elif name == "t5":
        state["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(8, 4, dtype=dtype)
    elif name == "t5_gated":
        shutil.copy(path / "config.json", path / "config.resaved.json")
        edit_config(path, tie_word_embeddings=False, scale_decoder_outputs=None)
        for n in ("encoder", "decoder"):
            state[n + ".embed_tokens.weight"] = state["shared.weight"].clone()
    else:
        return
    save_torch({n: state[n].contiguous() for n in sorted(state)}, file, metadata={"format": "pt"})


def load(cls, path, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls.from_pretrained(path, dtype=torch.float32, **more)


def make(name):
    cls, config, dtype, kind = MODELS[name]
    torch.manual_seed(SEED)
    model = cls(config)
    if name == "t5_gated":
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.all_tied_weights_keys.pop("lm_head.weight")
    dtype = getattr(torch, dtype)
    fill(model, SEED, dtype)
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    model.to(dtype).save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    edit_config(path)
    rename(path, name, dtype)
    loaded = load(cls, path)
    for (n, p), (m, q) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert n == m and torch.equal(p.float(), q), (n, m)
    for variant in ["", *VARIANTS.get(name, [])]:
        batch = BATCHES[variant or kind](config)
        golden = run(loaded, batch)
        if "loss" in golden:
            golden["steps"] = steps(loaded, batch)
        save_file(golden, path / f"golden{variant and '.' + variant}.safetensors", metadata={"stride": str(STRIDE)})


NAMES = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm",
         "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


def make_gguf(name):
    kind, output = GGUF[name]
    config = tf.GPT2Config(**{**GPT2, "n_layer": 1, "n_inner": None, "pad_token_id": None})
    model = tf.GPT2LMHeadModel(config)
    fill(model, SEED + 2, torch.float32)
    path = OUT / f"{name}.gguf"
    w = gguf.GGUFWriter(path, "gpt2")
    w.add_name("tiny")
    w.add_block_count(config.n_layer)
    w.add_context_length(config.n_positions)
    w.add_embedding_length(config.n_embd)
    w.add_feed_forward_length(4 * config.n_embd)
    w.add_head_count(config.n_head)
    w.add_layer_norm_eps(config.layer_norm_epsilon)
    w.add_vocab_size(config.vocab_size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    w.add_token_types([1] * config.vocab_size)
    w.add_token_merges([])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    qtype = getattr(gguf.GGMLQuantizationType, kind)
    for n, p in model.transformer.state_dict().items():
        module, part = n.rsplit(".", 1)
        _, layer, *rest = module.split(".", 2) if module.startswith("h.") else ("", "", module)
        ours = (f"blk.{layer}." if layer else "") + NAMES[rest[0]] + "." + part
        x = p.numpy()
        if ".c_" in n and x.ndim == 2:
            x = np.ascontiguousarray(x.T)
        if x.ndim == 1 or module == "wpe":
            w.add_tensor(ours, x.astype(np.float32))
            continue
        data = gguf.quants.quantize(x, qtype)
        w.add_tensor(ours, data, raw_dtype=qtype)
        if module == "wte" and output:
            w.add_tensor("output.weight", data, raw_dtype=qtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    loaded = load(tf.GPT2LMHeadModel, OUT, gguf_file=path.name, config=config)
    batch = causal(config)
    golden = run(loaded, batch)
    save_file(golden, OUT / f"{name}.golden.safetensors", metadata={"stride": str(STRIDE)})


BEAMS = [  # options of generate
    dict(max_new_tokens=12),
    dict(max_new_tokens=12, repetition_penalty=1.3),
    dict(max_new_tokens=10, min_new_tokens=6, no_repeat_ngram_size=2),
    dict(max_new_tokens=12, num_beams=4, length_penalty=1.0, early_stopping=False),
    dict(max_new_tokens=12, num_beams=4, length_penalty=2.0, early_stopping=True, num_return_sequences=3),
    dict(max_new_tokens=12, num_beams=4, length_penalty=0.0, early_stopping=False, num_return_sequences=4),
    dict(max_new_tokens=12, num_beams=4, length_penalty=-1.0, early_stopping="never", num_return_sequences=2),
    dict(max_new_tokens=12, num_beams=3, length_penalty=0.5, early_stopping="never", num_return_sequences=3),
    dict(max_new_tokens=8, num_beams=4, length_penalty=1.0, early_stopping=True, repetition_penalty=1.2,
         num_return_sequences=4),
]


def continuations(model, inputs, options):
    """transformers sizes a decoder's cache by the encoder's layers: without one where they differ."""
    layers = model.config.num_hidden_layers
    cached = getattr(model.config, "num_decoder_layers", layers) == layers
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(**inputs, do_sample=False, return_dict_in_generate=True, output_scores=True,
                             pad_token_id=0, use_cache=cached, **options)
    start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    rows = []
    for row in out.sequences[:, start:].tolist():
        end = row.index(options["eos_token_id"]) if options["eos_token_id"] in row else len(row)
        rows.append(row[:end + 1])
    return rows, getattr(out, "sequences_scores", None)


def likely_end(model, inputs):
    """An end token that beams meet now and then: the one that most paths of a beam search have in their middle."""
    rows, _ = continuations(model, inputs, dict(max_new_tokens=12, num_beams=4, num_return_sequences=4, eos_token_id=2))
    middle = [t for row in rows for t in row[3:9]]
    return max(sorted(set(middle)), key=middle.count)


def make_generate():
    lines = []
    for name, cls in (("families/gpt2", tf.GPT2LMHeadModel), ("models/llama", tf.LlamaForCausalLM),
                      ("families/t5", tf.T5ForConditionalGeneration),
                      ("families/t5_gated", tf.T5ForConditionalGeneration)):
        model = load(cls, pathlib.Path("tests/golden") / name).eval()
        exact = load(cls, pathlib.Path("tests/golden") / name).double().eval()
        for salt, length in ((20, 7), (21, 11)):
            inputs = dict(input_ids=random_ids((1, length), 3, salt))
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            for end in (2, likely_end(model, inputs)):
                for options in BEAMS:
                    options = {**options, "eos_token_id": end}
                    rows, scores = continuations(model, inputs, options)
                    assert rows == continuations(exact, inputs, options)[0], (name, options)
                    line = {"model": name, "options": options, "input_ids": inputs["input_ids"][0].tolist(),
                            "sequences": rows}
                    if scores is not None:
                        line["scores"] = [round(float(x), 5) for x in scores]
                    lines.append(line)
    (OUT / "generate.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or [*MODELS, *GGUF, "generate"]:
        if name == "generate":
            make_generate()
        else:
            (make_gguf if name in GGUF else make)(name)
        print(name, flush=True)


if __name__ == "__main__":
    main()
