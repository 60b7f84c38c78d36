#!/usr/bin/env python3
"""Makes tests/golden/anchors: pseudo-tokens of prompt tuning and P-tuning in the midst of real tokens, on masked
language models, classifiers and encoder-decoders, with what transformers computes from embeddings that are put
together by hand.

Made with torch 2.13.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, seed 20261126.
Usage: python tools/golden/make_anchors.py   (in the project's root, after make_families.py)

cases.txt has a line a case: name, base (a path under tests/golden). NAME/ is an adapter directory as peft's, with the template in
prompt_template.json and the state of P-tuning's network (peft's PromptEncoder) in prompt_encoder.safetensors.
NAME/golden.safetensors holds:
  input_ids (B,T) int64, -1 - k where pseudo-token k stands; attention_mask; labels; token_type_ids where the model has types
  logits: rows of masked positions set to zero; loss (1); grad.NAME as in make_family_methods.py; in "stride" as there
The model gets inputs_embeds alone: its own embeddings of the ids, and the rows in place of the others. So RoBERTa counts its
positions through pads, and a decoder that classifies takes the last cell."""
import json
import pathlib
import shutil

import peft
import torch
import transformers as tf
from safetensors.torch import save_file

import make_families as families
from make_families import MASK, STRIDE, gradients, hide, keep

SEED = 20261126
GOLDEN = pathlib.Path("tests/golden")
OUT = GOLDEN / "anchors"
MLM, CLS, LM, T2T = (tf.AutoModelForMaskedLM, tf.AutoModelForSequenceClassification, tf.AutoModelForCausalLM,
                     tf.AutoModelForSeq2SeqLM)
ANSWERED, LABELLED = '[P0..P1] a [P3] "b" [P2] [MASK]', '[CLS] [P0..P1] a [P3] "b" [P2]'
CASES = {  # name: (base, class, task type, network's settings)
    "bert": ("bert", MLM, None, None),
    "bert_mlp": ("bert", MLM, None, dict(encoder_hidden_size=10)),
    "roberta": ("roberta", MLM, None, None),
    "roberta_lstm": ("roberta", MLM, None, dict(encoder_hidden_size=6, encoder_reparameterization_type="LSTM")),
    "bert_cls": ("bert_cls", CLS, "SEQ_CLS", None),
    "bert_cls_mlp": ("bert_cls", CLS, "SEQ_CLS", dict(encoder_hidden_size=10)),
    "roberta_cls": ("roberta_cls", CLS, "SEQ_CLS", None),
    "gpt2_cls": ("gpt2_cls", CLS, "SEQ_CLS", None),
    "gpt2": ("gpt2", LM, "CAUSAL_LM", None),
    "t5": ("t5", T2T, "SEQ_2_SEQ_LM", None),
    "t5_gated_mlp": ("t5_gated", T2T, "SEQ_2_SEQ_LM", dict(encoder_hidden_size=10)),
}
ROWS = 4


def inputs(cls, config, g):
    """Three rows: whole; padded right; the pseudo-tokens in another order and one twice."""
    ids = torch.randint(5, MASK, (3, 15), generator=g)
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    ids[1, 11:] = config.pad_token_id
    for row, places in enumerate(((0, 1, 6, 9), (2, 3, 5, 8), (4, 2, 10, 7))):
        for k, at in enumerate(places):
            ids[row, at] = -1 - k
    ids[2, 13] = -1
    batch = dict(input_ids=ids, attention_mask=mask)
    if cls is MLM:
        labels = torch.full_like(ids, -100)
        for row, at in enumerate((12, 10, 0)):  # the mask stands in the midst, too
            ids[row, at], labels[row, at] = MASK, 7 + row
        batch["labels"] = labels
    elif cls is LM:
        batch["labels"] = ids.masked_fill((mask == 0) | (ids < 0), -100)
    elif cls is CLS:
        batch["labels"] = torch.tensor([1, 0, 2])
    else:
        labels = torch.randint(5, MASK, (3, 9), generator=g)
        labels[1, 6:] = -100
        batch["labels"] = labels
    if getattr(config, "type_vocab_size", 1) > 1:
        batch["token_type_ids"] = torch.zeros_like(ids)
    return batch


def make(name, base, cls, task, network):
    g = torch.Generator().manual_seed(SEED + sum(map(ord, name)))
    torch.manual_seed(SEED)
    model = cls.from_pretrained(GOLDEN / "families" / base, dtype=torch.float32).eval()
    config, width = model.config, model.get_input_embeddings().weight.shape[1]
    parts = 2 if cls is T2T else 1
    rows = parts * ROWS
    layers = getattr(config, "num_layers", None) or config.num_hidden_layers
    common = dict(task_type=task, num_virtual_tokens=ROWS, token_dim=width, num_layers=layers,
                  num_attention_heads=config.num_attention_heads, num_transformer_submodules=parts,
                  base_model_name_or_path=f"tests/golden/families/{base}")
    if network:
        settings = peft.PromptEncoderConfig(**common, **network)
        encoder = peft.PromptEncoder(settings).eval()
        with torch.no_grad():
            for p in encoder.parameters():
                p.copy_(torch.randn(p.shape, generator=g) / p.shape[-1] ** 0.5)
        table = encoder(torch.arange(rows)[None])[0]
        trained = [("prompt_encoder." + n, p) for n, p in encoder.named_parameters()]
    else:
        settings = peft.PromptTuningConfig(**common)
        table = torch.nn.Parameter(0.5 * torch.randn(rows, width, generator=g))
        trained = [("prompt_embeddings", table)]
    batch = inputs(cls, config, g)
    ids = batch["input_ids"]
    embeds = model.get_input_embeddings()(ids.clamp(min=0))
    embeds = torch.where((ids < 0)[..., None], table[(-1 - ids).clamp(min=0)], embeds)
    out = model(inputs_embeds=embeds, **{k: v for k, v in batch.items() if k != "input_ids"})
    out.loss.backward()
    golden = {n: x.contiguous() for n, x in batch.items()}
    golden["logits"] = torch.from_numpy(keep(hide(out.logits, batch)))
    golden["loss"] = out.loss.detach().reshape(1)
    golden.update({n: torch.from_numpy(x) for n, x in gradients(trained).items()})
    path = OUT / name
    path.mkdir(parents=True)
    settings.inference_mode = True
    settings.save_pretrained(path)
    save_file({"prompt_embeddings": table.detach().contiguous()}, path / "adapter_model.safetensors", metadata={"format": "pt"})
    if network:
        save_file({n: p.detach().contiguous() for n, p in encoder.named_parameters()}, path / "prompt_encoder.safetensors",
                  metadata={"format": "pt"})
    template = {"prompt_template": LABELLED if cls is CLS else ANSWERED}
    (path / "prompt_template.json").write_text(json.dumps(template, indent=2) + "\n")
    save_file(golden, path / "golden.safetensors", metadata={"stride": str(STRIDE)})


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    for name, (base, cls, task, network) in CASES.items():
        make(name, base, cls, task, network)
    (OUT / "cases.txt").write_text("".join(f"{n} families/{c[0]}\n" for n, c in CASES.items()))


main()
