#!/usr/bin/env python3
"""Writes tests/golden/data/: records with the tokens and labels that trl's SFTTrainer makes of them.

tok-*/            small tokenizers: byte-level BPE that adds nothing, BOS, or BOS and EOS; SentencePiece-like BPE
templates/        chat templates, NAME.jinja and NAME.marked.jinja with {% generation %} blocks and the same rendering
cases.jsonl       one case a line: tokenizer, template, options, records and what is expected of each kept example: ids and
                  either labels or the runs [start, end) of tokens that are learnt; "find" cases run without the marks
prompts.jsonl     conversations up to their last answer with the generation prompt: text and ids
packing.json      lengths, and the bins that trl's pack_dataset (bfd) makes of them

Left out of what is expected are examples whose only label is the first token's: nothing predicts it.

Usage: make_data.py  (from the project's root)
Made with Python 3.11, trl 1.16.0, transformers 5.23.0, tokenizers 0.23.3, datasets 5.2.0, torch 2.13.0; seed 7."""
import json
import pathlib
import random
import shutil
import tempfile

import datasets
import transformers
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer, pack_dataset

OUT = pathlib.Path("tests/golden/data")
SPECIAL = ["<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|channel|>", "<|message|>",
           "<|return|>", "<|user|>", "<|assistant|>", "<|system|>", "[INST]", "[/INST]"]
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
CORPUS = """system user assistant model analysis final channel The weather is fine today, and tomorrow it will rain in the north.
Write a short answer. What is the capital of France? Paris is the capital. Below is an instruction that describes a task, paired
with an input that provides further context. Write a response that appropriately completes the request. ### Instruction: ###
Input: ### Response: name arguments function get_weather city temperature You are a helpful assistant. I think that two and two
make four because counting says so. hello world wonderful wordless worldly""".split("\n")


def make_tokenizers():
    def save(name, tok, special, **config):
        fast = PreTrainedTokenizerFast(tokenizer_object=tok, **special)
        fast.save_pretrained(OUT / name)
        for extra in ("special_tokens_map.json", "chat_template.jinja"):
            (OUT / name / extra).unlink(missing_ok=True)
        text = json.loads((OUT / name / "tokenizer.json").read_text())
        (OUT / name / "tokenizer.json").write_text(json.dumps(text, ensure_ascii=False))
        if config:
            (OUT / name / "generation_config.json").write_text(json.dumps(config))

    def byte_level(post):
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        tok.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, show_progress=False,
                                                                initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in ADDED])
        if post:
            tok.post_processor = processors.TemplateProcessing(single=post, special_tokens=[("<s>", tok.token_to_id("<s>")),
                                                                                           ("</s>", tok.token_to_id("</s>"))])
        return tok

    plain = byte_level(None)
    ends = [plain.token_to_id(t) for t in ("<|endoftext|>", "<|im_end|>", "<|user|>", "<|return|>")]
    save("tok-plain", plain, {"eos_token": "<|endoftext|>"}, eos_token_id=ends)
    save("tok-bos", byte_level("<s> $A"), {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|endoftext|>"})
    save("tok-both", byte_level("<s> $A </s>"), {"bos_token": "<s>", "eos_token": "</s>"})
    sp = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    sp.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    sp.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    sp.train_from_iterator([l.replace(" ", "▁") for l in CORPUS] * 3, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"] + bytes_, show_progress=False, max_token_length=10))
    text = json.loads(sp.to_str())
    text["added_tokens"] = [t for t in text["added_tokens"] if not t["content"].startswith("<0x")]
    sp = Tokenizer.from_str(json.dumps(text))
    sp.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    sp.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", sp.token_to_id("<s>"))])
    save("tok-sp", sp, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


# (( and )) become {% generation %} and {% endgeneration %}, or nothing.
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}(({{ m.content + '<|im_end|>\\n' }}))"
              "{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    # text trimmed, BOS written by the template
    "trim": "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>\\n\\n' }}{% if m.role == 'assistant' %}"
            "(({{ m.content | trim + '<|end|>' }})){% else %}{{ m.content | trim + '<|end|>' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start|>assistant<|message|>\\n\\n' }}{% endif %}",
    # an end of text behind the whole, unless there is a generation prompt
    "final-eos": "{% for m in messages %}{{ '<|' + m.role + '|>\\n' }}{% if m.role == 'assistant' %}(({{ m.content + '<|end|>\\n' }}))"
                 "{% else %}{{ m.content + '<|end|>\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}"
                 "{% elif messages[-1].role == 'assistant' %}(({{ eos_token }})){% else %}{{ eos_token }}{% endif %}",
    # another name for the assistant, turns must alternate, no system message
    "strict": "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
              "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'assistant' %}{{ '<|start|>model\\n' }}"
              "(({{ m.content | trim + '<|end|>\\n' }})){% else %}{{ '<|start|>' + m.role + '\\n' + m.content | trim + '<|end|>\\n' }}{% endif %}"
              "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>model\\n' }}{% endif %}",
    # thoughts are kept behind the last question only, and are there even when empty; tools
    "think": "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
             "{% endfor %}{% if tools %}{{ '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}{% for m in messages %}"
             "{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}(({% set t = (m.content or '').split('</think>') %}"
             "{% if loop.index0 > ns.last and (loop.last or t | length > 1) %}{{ '<think>\\n' + (t[0].split('<think>')[-1].strip('\\n') if t | length > 1 else '') "
             "+ '\\n</think>\\n\\n' }}{% endif %}{{ t[-1].lstrip('\\n') }}{% for c in m.tool_calls or [] %}{{ '\\n<tool_call>\\n{\"name\": \"' + "
             "c.function.name + '\", \"arguments\": ' + c.function.arguments | tojson + '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}))"
             "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if no_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}",
    # the generation prompt opens a thought that no written turn has
    "open-thought": "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' }}(({{ m.content.split('</think>')[-1] + "
                    "eos_token }})){% else %}{{ '<|user|>' + m.content }}{% endif %}{% endfor %}"
                    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}",
    # a turn ends where the next begins
    "no-end": "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\\n' }}(({{ m.content }})){% elif m.role == 'user' and loop.index0 "
              "and messages[loop.index0 - 1].role == 'assistant' %}(({{ '<|user|>' }})){{ '\\n' + m.content }}{% else %}{{ '<|' + m.role + '|>\\n' + m.content }}"
              "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    # channels; the last turn ends in another way than those before
    "channels": "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant' }}(({% if m.thinking and loop.last %}{{ '<|channel|>analysis<|message|>' "
                "+ m.thinking + '<|end|><|start|>assistant' }}{% endif %}{{ '<|channel|>final<|message|>' + m.content }}{% if loop.last %}{{ '<|return|>' }}"
                "{% else %}{{ '<|end|>' }}{% endif %})){% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
    # the generation prompt opens a thought that written turns close at once
    "half-thought": "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n<think>' }}(({{ '</think>' + m.content | trim + "
                    "'<|im_end|>\\n' }})){% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
                    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
    # no generation prompt at all; the system's message goes into the first question
    "inst": "{{ bos_token }}{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.s = m.content + '\\n\\n' %}"
            "{% elif m.role == 'user' %}{{ '[INST] ' + ns.s + m.content + ' [/INST]' }}{% set ns.s = '' %}{% else %}(({{ ' ' + m.content + eos_token }}))"
            "{% endif %}{% endfor %}",
}


def u(text):
    return {"role": "user", "content": text}


def a(text, **more):
    return {"role": "assistant", "content": text, **more}


def s(text):
    return {"role": "system", "content": text}


SHORT = [[u("hello world"), a("Paris is fine.")], [u("What is 2+2?"), a("four\n"), u("  again "), a(" four  ")]]
CHATS = SHORT + [
    [s("You are a helpful assistant."), u("hello"), a("hello"), u("hello"), a("hello"), u("hello"), a("hello")],
    [u("Say <|im_end|> and <|im_start|>assistant\nfake"), a("ok <|im_end|> no"), u("naïve 日本語 😀"), a("Überall\n\n日本 😀")],
    [u("first"), a("one"), u("unanswered")],
]
THOUGHTS = [
    [u("2+2?"), a("<think>\ncounting says so\n</think>\n\nfour"), u("and 3+3?"), a("<think>\nsix I think\n</think>\n\nsix")],
    [u("2+2?"), a("four"), u("and 3+3?"), a("six")],
]
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
TOOLS = [[u("weather?"), a("", tool_calls=[CALL]), {"role": "tool", "content": "fine"}, a("It is fine.")],
         [u("weather?"), a("I look.", tool_calls=[CALL]), {"role": "tool", "content": "rain"}, a("Rain."), u("thanks"), a("hello")]]
EMPTY = [[u("hello"), a(""), u("hello again"), a("")]]
BY_TEMPLATE = {"chatml": CHATS + EMPTY, "half-thought": SHORT + CHATS[2:3] + EMPTY, "trim": CHATS, "final-eos": CHATS + EMPTY, "strict": SHORT, "think": CHATS[:3] + THOUGHTS, "open-thought": SHORT + THOUGHTS,
               "no-end": SHORT + CHATS[2:3], "channels": SHORT + CHATS[2:3] + [[u("2+2?"), a("four", thinking="counting"), u("3+3?"), a("six", thinking="I think")]],
               "inst": SHORT + CHATS[2:3]}
TEXTS = ["The weather is fine today.", "", "x", "Ends itself</s>", "Ends itself<|endoftext|>", "naïve 日本語 😀\n\n", "hello " * 30, " leading", "a<think>b"]
PAIRS = [("What is the capital of France?", " Paris"), ("hello wor", "ld"), ("Write a short answer. ", "Paris is"), ("", "all"), ("all", ""),
         ("hello " * 20, "world"), ("x<|im_", "end|>y"), ("日", "本"), ("a ", " b"), ("done", "It ends</s>")]
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Response:\n"
ALPACA_INPUT = ("Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
                "appropriately completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n")


def template(name, marked):
    text = TEMPLATES[name]
    return text.replace("((", "{% generation %}").replace("))", "{% endgeneration %}") if marked else text.replace("((", "").replace("))", "")


def tokenizer(name, chat=None):
    tok = PreTrainedTokenizerFast.from_pretrained(OUT / name)
    tok.chat_template = chat
    return tok


def prepared(tok, records, **options):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(folder, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, **options)
        trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(records), processing_class=tok)
        return [(r["input_ids"], r["labels"]) for r in trainer.train_dataset]


def runs(ids, labels):
    assert all(l in (-100, i) for i, l in zip(ids, labels))
    out = []
    for t, label in enumerate(labels):
        if label == -100:
            continue
        if out and out[-1][1] == t:
            out[-1][1] = t + 1
        else:
            out.append([t, t + 1])
    return out


class Cases:
    def __init__(self):
        self.file = open(OUT / "cases.jsonl", "w")

    def add(self, tok, records, chat=None, find=False, given=None, **options):
        """`given`: what trl is given in the records' place."""
        max_length = options.setdefault("max_length", 1024)
        rows = prepared(tokenizer(tok, template(chat, True) if chat else None), given or records, **options)
        if options.get("assistant_only_loss") and chat:  # both renderings must be the same text
            for r in given or records:
                m = r.get("messages") or r["prompt"] + r["completion"]
                kw = {k: v for k, v in r.items() if k == "tools"}
                both = [tokenizer(tok, template(chat, k)).apply_chat_template(m, tokenize=False, **kw) for k in (False, True)]
                assert both[0] == both[1]
        rows = [r for r in rows if any(l != -100 for l in r[1][1:])]
        foreign = any(l not in (-100, i) for r in rows for i, l in zip(*r))
        self.file.write(json.dumps({
            "tokenizer": tok, "template": chat, "find": find, "max_length": max_length if max_length is not None else -1,
            "completion_only": {None: 0, True: 1, False: 2}[options.get("completion_only_loss")],
            "assistant_only": int(options.get("assistant_only_loss", False)), "keep_end": int(options.get("truncation_mode") == "keep_end"),
            "records": records, "expected": [{"ids": i, "labels": l} if foreign else {"ids": i, "learnt": runs(i, l)} for i, l in rows],
        }, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    (OUT / "templates").mkdir()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    transformers.logging.set_verbosity_error()
    make_tokenizers()
    for name in TEMPLATES:
        (OUT / "templates" / f"{name}.jinja").write_text(template(name, False))
        (OUT / "templates" / f"{name}.marked.jinja").write_text(template(name, True))
    c = Cases()
    for tok in ("tok-plain", "tok-bos", "tok-both", "tok-sp"):
        c.add(tok, [{"text": t} for t in TEXTS])
        c.add(tok, [{"text": t} for t in TEXTS], max_length=5)
        pairs = [{"prompt": p, "completion": q} for p, q in PAIRS]
        for options in ({}, {"completion_only_loss": False}, {"max_length": 6}, {"max_length": None}, {"max_length": 6, "truncation_mode": "keep_end"}):
            c.add(tok, pairs, **options)
    alpaca = [{"instruction": "Write a short answer.", "input": "hello", "output": "world"}, {"instruction": "Say four", "input": "", "output": "4"}]
    c.add("tok-bos", alpaca, given=[{"prompt": ALPACA_INPUT.format(r["instruction"], r["input"]) if r["input"] else ALPACA.format(r["instruction"]),
                                     "completion": r["output"]} for r in alpaca])
    c.add("tok-plain", alpaca, chat="chatml", given=[
        {"prompt": [u(r["instruction"] + ("\n\n" + r["input"] if r["input"] else ""))], "completion": [a(r["output"])]} for r in alpaca])
    for chat, talks in BY_TEMPLATE.items():
        for tok in ("tok-plain", "tok-bos"):
            c.add(tok, [{"messages": m} for m in talks], chat=chat)
            pairs = [{"prompt": m[:-1], "completion": m[-1:]} for m in talks if m[-1]["role"] == "assistant"]
            c.add(tok, pairs, chat=chat)
            for find in (False, True):
                c.add(tok, [{"messages": m} for m in talks], chat=chat, find=find, assistant_only_loss=True)
                c.add(tok, pairs, chat=chat, find=find, assistant_only_loss=True, max_length=30)
    c.add("tok-sp", [{"messages": m} for m in SHORT], chat="inst", assistant_only_loss=True)
    c.add("tok-sp", [{"messages": m} for m in SHORT], chat="inst", find=True, assistant_only_loss=True)
    for m in TOOLS:  # one by one: datasets would fill records with each other's fields
        for find in (False, True):
            c.add("tok-plain", [{"messages": m, "tools": [{"type": "function", "function": {"name": "get_weather"}}]}], chat="think", find=find, assistant_only_loss=True)
    c.add("tok-plain", [{"prompt": [u("2+2?")], "completion": [a("four")], "chat_template_kwargs": {"no_thinking": True}}], chat="think")
    c.add("tok-plain", [{"conversations": [{"from": "user", "value": "hello"}, {"from": "assistant", "value": "world"}]}], chat="chatml")
    c.add("tok-plain", [{"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "world"}]}], chat="chatml",
          given=[{"messages": [u("hello"), a("world")]}])
    c.add("tok-plain", [{"input_ids": [1, 2, 3, 4]}, {"input_ids": [5, 6]}])
    c.add("tok-plain", [{"input_ids": [1, 2, 3, 4], "labels": [-100, 2, 9, -100]}, {"input_ids": [5, 6], "labels": [5, 7]}, {"input_ids": [5, 6], "labels": [5, -100]}])
    masks = [{"input_ids": [1, 2, 3, 4], "completion_mask": [0, 1, 1, 1], "assistant_masks": [1, 1, 0, 1]}]
    c.add("tok-plain", masks, completion_only_loss=True)
    c.add("tok-plain", masks, completion_only_loss=False)
    with open(OUT / "prompts.jsonl", "w") as f:
        for chat, talks in BY_TEMPLATE.items():
            tok = tokenizer("tok-bos", template(chat, False))
            for m in talks:
                answered = m[-1]["role"] == "assistant"
                up_to = m[:-1] if answered else m
                text = tok.apply_chat_template(up_to, tokenize=False, add_generation_prompt=True)
                f.write(json.dumps({"template": chat, "record": {"messages": m}, "text": text, "ids": tok(text, add_special_tokens=False)["input_ids"],
                                    "reference": m[-1]["content"] if answered else None}, ensure_ascii=False, separators=(",", ":")) + "\n")
    rng = random.Random(7)
    lengths = [min(64, 1 + int(rng.expovariate(1 / 18))) for _ in range(2300)]
    packed = pack_dataset(Dataset.from_dict({"input_ids": [[i] * n for i, n in enumerate(lengths)]}), 64, "bfd")
    bins = []
    for row in packed:
        at, members = 0, []
        for n in row["seq_lengths"]:
            members.append(row["input_ids"][at])
            at += n
        bins.append(members)
    (OUT / "packing.json").write_text(json.dumps({"lengths": lengths, "capacity": 64, "bins": bins}, separators=(",", ":")))


main()
