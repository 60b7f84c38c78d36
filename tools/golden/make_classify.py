#!/usr/bin/env python3
"""Makes tests/golden/classify: tokenizers of three kinds with what they make of one and of two texts, and metrics of
classification and regression.

Made with tokenizers 0.23.3, transformers 5.24.0, torch 2.13.0 (pairs, encode, minilm), scikit-learn 1.9.1, scipy 1.17.1 (metrics), seed 20260901.
Usage: python tools/golden/make_classify.py [pairs] [metrics] [encode] [minilm]   (in the project's root, after
make_families.py; minilm after tools/fetch.py encoder; metrics needs other libraries than the others)

NAME/tokenizer.json is a WordPiece of 96 tokens, [PAD] 0, [MASK] 95, with BERT's post-processor, RoBERTa's, or a
template that puts a token between the two texts and none behind. pairs.jsonl: tokenizer, text, pair (null: none),
max_length (0: none), input_ids and token_type_ids of transformers' PreTrainedTokenizerFast with truncation=True.

encode.jsonl: model (one of families/), text, pair, and what transformers gives with the tokenizer bert/ (of t5 that of seq2seq/model): scores of a
classifier (softmax; sigmoid of several labels, and of a single one without a problem_type), fill of a masked language model (for every mask
the five likeliest ids and their probabilities), embedding of a bare one (mean over the tokens, of length 1).
minilm.jsonl: text and every eighth number of its embedding by all-MiniLM-L6-v2, as sentence-transformers makes it.

metrics.jsonl: problem, logits (N,L) and classes (N) or values (N,L), and of them accuracy, macro f1 (zero_division=0),
mean squared error and Pearson's coefficient, null where it has no meaning."""
import json
import pathlib
import random
import sys

OUT = pathlib.Path("tests/golden/classify")
SEED = 20260901
WORDS = "good bad film actor plot very not a the of is was and slow fast funny dull great poor story".split()


def vocabulary():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + WORDS + [chr(c) for c in range(97, 123)]
    tokens += ["##" + chr(c) for c in range(97, 123)] + list(".,!?")
    tokens += [f"[unused{i}]" for i in range(95 - len(tokens))] + ["[MASK]"]
    assert len(tokens) == 96
    return {t: i for i, t in enumerate(tokens)}


def pairs():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    vocab = vocabulary()
    kinds = {
        "bert": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        "roberta": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
        "template": processors.TemplateProcessing(single="[CLS] $A", pair="[CLS] $A [SEP] $B:1",
                                                  special_tokens=[("[CLS]", 2), ("[SEP]", 3)]),
    }
    rng = random.Random(SEED)
    lines = []
    for name, processor in kinds.items():
        t = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        t.normalizer = normalizers.BertNormalizer()
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.post_processor = processor
        t.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
        (OUT / name).mkdir(parents=True, exist_ok=True)
        fast = PreTrainedTokenizerFast(tokenizer_object=t, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                                       sep_token="[SEP]", mask_token="[MASK]")
        fast.save_pretrained(OUT / name)
        for length in (0, 12, 7, 5, 3):
            for a, b in ((4, None), (0, 3), (3, 9), (9, 3), (6, 6), (12, None), (5, 0)):
                text = " ".join(rng.choice(WORDS) for _ in range(a))
                pair = None if b is None else " ".join(rng.choice(WORDS) for _ in range(b))
                if pair is not None and length and length < 4:
                    continue
                out = fast(text, pair, truncation=length > 0, max_length=length or None, return_token_type_ids=True)
                lines.append({"tokenizer": name, "text": text, "pair": pair, "max_length": length,
                              "input_ids": out["input_ids"], "token_type_ids": out["token_type_ids"]})
    (OUT / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def metrics():
    import numpy as np
    from scipy.stats import pearsonr
    from sklearn.metrics import accuracy_score, f1_score, mean_squared_error
    rng = np.random.default_rng(SEED)
    lines = []
    for n, labels, used in ((1, 3, 3), (17, 3, 3), (40, 6, 3), (25, 2, 1), (60, 5, 5)):
        logits = rng.normal(size=(n, labels)).round(3)
        classes = rng.integers(0, used, n)
        said = logits.argmax(1)
        lines.append({"problem": "single_label_classification", "logits": logits.tolist(), "classes": classes.tolist(),
                      "accuracy": accuracy_score(classes, said),
                      "f1": f1_score(classes, said, average="macro", zero_division=0), "mse": None, "pearson": None})
        values = (rng.random((n, labels)) < 0.3).astype(int)
        said = (logits > 0).astype(int)
        lines.append({"problem": "multi_label_classification", "logits": logits.tolist(), "values": values.tolist(),
                      "accuracy": accuracy_score(values, said),
                      "f1": f1_score(values, said, average="macro", zero_division=0), "mse": None, "pearson": None})
    for n, labels in ((2, 1), (30, 1), (12, 3)):
        logits = rng.normal(size=(n, labels)).round(3)
        values = (0.5 * logits + rng.normal(size=(n, labels))).round(3)
        pearson = pearsonr(values[:, 0], logits[:, 0])[0] if labels == 1 else None
        lines.append({"problem": "regression", "logits": logits.tolist(), "values": values.tolist(), "accuracy": None,
                      "f1": None, "mse": mean_squared_error(values, logits), "pearson": pearson})
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def embed(model, tokenizer, text, length):
    import torch
    inputs = tokenizer(text, truncation=True, max_length=length, return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden.mean(0), dim=0).tolist()


def encode():
    import torch
    import transformers as tf
    bert = tf.AutoTokenizer.from_pretrained(OUT / "bert")
    t5 = tf.PreTrainedTokenizerFast.from_pretrained("tests/golden/seq2seq/model")
    rng = random.Random(SEED + 1)
    lines = []
    for name in ("bert_cls", "bert_multi", "bert_regression", "roberta_cls", "bert", "roberta", "bert_embed", "t5_cls",
                 "t5_multi", "t5_regression"):
        tokenizer = t5 if name.startswith("t5") else bert
        path = f"tests/golden/families/{name}"
        task = name.split("_")[1] if "_" in name else "mask"
        cls = {"mask": tf.AutoModelForMaskedLM, "embed": tf.AutoModel}.get(task, tf.AutoModelForSequenceClassification)
        model = cls.from_pretrained(path, dtype=torch.float32).eval()
        for words, second in ((5, 0), (9, 4), (1, 0)):
            text = [rng.choice(WORDS) for _ in range(words)]
            if task == "mask":
                text[words // 2] = "[MASK]"
                if words == 9:
                    text[0] = "[MASK]"
            text = " ".join(text)
            pair = " ".join(rng.choice(WORDS) for _ in range(second)) if second and task != "embed" else None
            line = {"model": name, "text": text, "pair": pair}
            inputs = tokenizer(text, pair, return_tensors="pt", return_token_type_ids=True)
            if getattr(model.config, "type_vocab_size", 1) == 1:
                inputs.pop("token_type_ids")
            with torch.no_grad():
                out = model(**inputs)
            if task == "embed":
                line["embedding"] = embed(model, tokenizer, text, 32)
            elif task == "mask":
                top = torch.softmax(out.logits[0][inputs["input_ids"][0] == 95], -1).topk(5)
                line["fill"] = {"ids": top.indices.tolist(), "scores": top.values.tolist()}
            else:
                x = out.logits[0]
                line["scores"] = (x.softmax(-1) if task == "cls" else x.sigmoid()).tolist()
            lines.append(line)
    (OUT / "encode.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def minilm():
    import torch
    import transformers as tf
    path = pathlib.Path.home() / ".cache/graft/models/all-MiniLM-L6-v2"
    tokenizer = tf.AutoTokenizer.from_pretrained(path)
    model = tf.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    texts = ["A man is eating food.", "Someone has lunch.", "The quick brown fox jumps over the lazy dog.",
             "Naïve café — déjà vu, 東京 and émigrés", "x", "the film was slow and dull but the actors were great. " * 40]
    lines = [{"text": t, "embedding": [round(x, 7) for x in embed(model, tokenizer, t, 256)[::8]]} for t in texts]
    (OUT / "minilm.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


for what in sys.argv[1:] or ["pairs", "encode", "minilm"]:
    {"pairs": pairs, "metrics": metrics, "encode": encode, "minilm": minilm}[what]()
