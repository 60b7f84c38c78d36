#!/usr/bin/env python3
"""Makes tests/golden/seq2seq: what transformers makes of records for an encoder-decoder, and runs of its Seq2SeqTrainer.

Made with torch 2.13.0, transformers 5.24.0, peft 0.21.2, datasets, tokenizers 0.23.3, safetensors 0.8.0; seed 20260807.
Usage: python tools/golden/make_seq2seq.py   (in the project's root)

model/ is a tiny T5 of v1.1 without dropout, with a Unigram tokenizer that closes texts with the end token; adapter/ a fresh LoRA
that peft made; pairs.jsonl are records; encoded.json is what the tokenizer makes of them as run_summarization has it (text,
text_target, cut to 14 and 9 tokens); runs.json holds options and log of runs in float32, in the order of the records."""
import json
import pathlib
import random
import shutil
import tempfile

import torch
import transformers as tf
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path("tests/golden/seq2seq")
SEED = 20260807
SOURCE, TARGET = 14, 9
WORDS = ("red green blue small large round quick slow old new stone river cloud bird horse house road tree light dark "
         "walks runs sees finds keeps makes opens takes the a one two three and or but with under over near").split()


def sentences(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def tokenizer(rng):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator([sentences(rng, 12) for _ in range(200)], trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"))
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tf.PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(
        OUT / "model")
    return t.get_vocab_size()


def make_model(rng):
    vocab = tokenizer(rng)
    torch.manual_seed(SEED)
    config = tf.T5Config(vocab_size=vocab, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0,
                         relative_attention_num_buckets=8, relative_attention_max_distance=20, feed_forward_proj="gated-gelu",
                         pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    config.scale_decoder_outputs = False
    model = tf.T5ForConditionalGeneration(config)
    model.save_pretrained(OUT / "model")
    fresh = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_2_SEQ_LM"))
    fresh.peft_config["default"].base_model_name_or_path = "model"
    fresh.save_pretrained(OUT / "adapter")
    (OUT / "adapter/README.md").unlink()


def records():
    return [json.loads(line) for line in open(OUT / "pairs.jsonl")]


def encode(tok):
    rows = []
    for r in records():
        row = tok(r["prompt"], max_length=SOURCE, truncation=True)
        rows.append({"input_ids": row["input_ids"],
                     "labels": tok(text_target=r["completion"], max_length=TARGET, truncation=True)["input_ids"]})
    return rows


RUNS = {
    "full": ("full", dict(per_device_train_batch_size=4, learning_rate=3e-3, warmup_steps=4, lr_scheduler_type="cosine",
                          weight_decay=0.05, max_grad_norm=1.0, eval_strategy="steps", eval_steps=10, per_device_eval_batch_size=64)),
    "lora": ("lora", dict(per_device_train_batch_size=6, learning_rate=1e-2,
                          lr_scheduler_type="linear", weight_decay=0.01, max_grad_norm=0.5)),
}


def runs(tok, rows):
    result = {}
    for name, (method, options) in RUNS.items():
        model = tf.T5ForConditionalGeneration.from_pretrained(OUT / "model", dtype=torch.float32)
        if method == "lora":
            model = PeftModel.from_pretrained(model, OUT / "adapter", is_trainable=True)
        with tempfile.TemporaryDirectory() as folder:
            args = tf.Seq2SeqTrainingArguments(
                output_dir=folder, max_steps=20, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, seed=SEED,
                train_sampling_strategy="sequential", disable_tqdm=True, bf16=False, **options)
            trainer = tf.Seq2SeqTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows),
                                        eval_dataset=Dataset.from_list(rows), processing_class=tok,
                                        data_collator=tf.DataCollatorForSeq2Seq(tok, model=model))
            trainer.train()
            keep = ("loss", "grad_norm", "learning_rate", "epoch", "step", "eval_loss", "train_loss")
            log = [{k: v for k, v in line.items() if k in keep} for line in trainer.state.log_history]
        result[name] = {"data": "pairs.jsonl", "method": method, "options": options, "log": log}
    (OUT / "runs.json").write_text(json.dumps(result, indent=0) + "\n")


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    rng = random.Random(SEED)
    make_model(rng)
    with open(OUT / "pairs.jsonl", "w") as f:
        for _ in range(32):
            words = sentences(rng, rng.randint(2, 12))
            f.write(json.dumps({"prompt": "turn: " + words, "completion": " ".join(reversed(words.split()[:8]))}) + "\n")
    tok = tf.AutoTokenizer.from_pretrained(OUT / "model")
    rows = encode(tok)
    (OUT / "encoded.json").write_text(json.dumps(rows) + "\n")
    runs(tok, rows)
    shutil.rmtree("trainer_output", ignore_errors=True)


if __name__ == "__main__":
    main()
