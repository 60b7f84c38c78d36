#!/usr/bin/env python3
"""Writes tests/golden/tokenizer: small tokenizers in every configuration that the `tokenizers` library has, SentencePiece
models, GGUF vocabularies, and what the reference libraries make of the texts of tokenizer_texts.py.

Usage: make_tokenizers.py [MODEL.gguf]  (from the project's root). With the packaged model also smollm2.ids.gz.
       make_tokenizers.py --packaged MODEL.gguf  makes only that.
       make_tokenizers.py --only NAME ...  makes only those.
       make_tokenizers.py --show NAME TEXT_NUMBER  prints what the reference gives for one text.
Made with Python 3.11, tokenizers 0.23.3, transformers 5.23.0, sentencepiece 0.2.3, gguf 0.19.0, llama-cpp-python 0.3.36;
training is deterministic.

texts.gz      u32 count, then u32 length and bytes for each text
NAME.json.gz  a tokenizer.json; NAME.model.gz a SentencePiece model; NAME.gguf.gz a vocabulary in GGUF
NAME.crc.gz   for each text a byte that says which of five parts are compared (1: ids, 2: spans, 4: ids with special
              tokens added, 8: ids with special tokens not parsed, 16: decoded text), and the CRC-32 of those parts one
              behind the other: ids as little-endian i32; spans as pairs of u32, (0,0) where empty; the ids of part 4
              decoded, NUL, the same without special tokens. First all bytes, then all CRCs.
smollm2.ids.gz  for each text u32 n, n u16 ids, n times two u32 span bounds (n times 0xFFFFFFFF: not compared)

Spans are not compared where the reference drops characters without a symbol: it then counts bytes wrongly. Ill-formed bytes
are read by the reference as bytes.decode("utf-8", "replace"), the spans mapped back to the bytes."""
import gzip
import json
import os
import pathlib
import struct
import sys
import tempfile
import zlib

os.environ["RAYON_NUM_THREADS"] = "1"  # the order of sums in training

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)

from tokenizer_texts import SENTENCES, CODE, texts

OUT = pathlib.Path("tests/golden/tokenizer")
TEXTS = texts()
CORPUS = [t.decode("utf-8", "replace") for t in TEXTS if len(t) > 20] + list(SENTENCES.values()) * 2 + CODE * 4
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "<|im_start|>", "<|im_end|>"]

REGEX = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek3": r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "bailing": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]+|\s+(?!\S)|\s+",
    "exaone": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    # constructs that differ between Oniguruma and PCRE2
    "odd": r"\h{2}|[[:punct:]&&[^_'\-]]+|[[:alpha:]]+|\d{,3}+|\w+?\b|[a-f[x-z]0-9]+|^.|(?m:\s.)$|\p{Han}|\p{Hiragana}+|\p{^L}|\R|\u3042|[^\W\d]",
    "edges": r"(?<=\p{Lu})(?=\p{Lu}\p{Ll})|(?<!\p{N})(?=\p{N})|\B'\B|\Aa|z\z",
}


def split(name, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(REGEX.get(name, name)), behavior, invert)


def byte_level(*before, prefix=False, regex=False):
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    return pre_tokenizers.Sequence([*before, last]) if before else last


def train(pre=None, norm=None, dec=None, size=700, specials=SPECIAL, alphabet=ALPHABET, post=None, added=(), corpus=None, **model):
    tok = Tokenizer(models.BPE(**model))
    if norm:
        tok.normalizer = norm
    if pre:
        tok.pre_tokenizer = pre
    kw = dict(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False, limit_alphabet=600)
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if key in model:
            kw[key] = model[key]
    tok.train_from_iterator(corpus or CORPUS, trainers.BpeTrainer(**kw))
    if dec:
        tok.decoder = dec
    if post:
        tok.post_processor = post(tok) if callable(post) else post
    for t in added:
        tok.add_tokens([t])
    return tok


def finish(tok, pre, norm, dec, post, added, trainer, corpus):
    if norm:
        tok.normalizer = norm
    if pre:
        tok.pre_tokenizer = pre
    if trainer:
        tok.train_from_iterator(corpus or CORPUS, trainer)
    if dec:
        tok.decoder = dec
    if post:
        tok.post_processor = post(tok) if callable(post) else post
    for t in added:
        tok.add_tokens([t])
    return tok


BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece(pre=pre_tokenizers.BertPreTokenizer(), norm=None, dec=decoders.WordPiece(), post=None, added=(), size=900, prefix="##", max_chars=100, corpus=None):
    """Training knows no other lengths and no empty prefix: they are put into the file."""
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=BERT_SPECIAL, continuing_subword_prefix=prefix, initial_alphabet=CHARS, limit_alphabet=500,
                                        show_progress=False)
    tok = finish(Tokenizer(models.WordPiece(unk_token="[UNK]", continuing_subword_prefix=prefix)), pre, norm, dec, post, added, trainer, corpus)
    data = json.loads(tok.to_str())
    data["model"]["max_input_chars_per_word"] = max_chars
    return Tokenizer.from_str(json.dumps(data))


def bert_template(tok):
    return processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[(t, tok.token_to_id(t)) for t in ("[CLS]", "[SEP]")])


def bert_processing(tok):
    return processors.BertProcessing(("[SEP]", tok.token_to_id("[SEP]")), ("[CLS]", tok.token_to_id("[CLS]")))


LETTERS = list(SENTENCES.values())[:14] * 3 + CODE * 4  # training wants every character of its texts as a piece


def unigram(pre=None, norm=None, dec=None, post=None, added=(), size=900, specials=("<pad>", "</s>", "<unk>"), corpus=None, byte_fallback=False):
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=list(specials), unk_token="<unk>", initial_alphabet=[], show_progress=False)
    tok = finish(Tokenizer(models.Unigram()), pre, norm, dec, post, added, trainer, corpus or LETTERS)
    data = json.loads(tok.to_str())
    data["model"]["byte_fallback"] = byte_fallback
    return Tokenizer.from_str(json.dumps(data))


def unigram_by_hand():
    """Sums that are equal, pieces inside others, pieces longer than a character whose characters are none, the unknown token in the
    middle of the list, and scores above zero."""
    scores = [("a", -1.0), ("b", -2.0), ("ab", -3.0), ("ba", -3.0), ("aba", -4.0), ("abab", -6.0), ("<unk>", -0.5), ("e", -0.1), ("ee", -0.2), ("the", -30.0), ("th", -21.5),
              ("é", -3.3), ("ée", -3.4), (" ", -0.25), ("  ", 1.5), ("qu", -40.0), ("zzz", -50.0), ("人", -2.5), ("人人生", -2.5), ("\n", -9.125), ("▁", -2.75), ("▁a", -3.75)]
    return Tokenizer(models.Unigram(scores, 6, False))


def template(single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1"):
    return lambda tok: processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(t, tok.token_to_id(t)) for t in ("<s>", "</s>")])


ADDED = [AddedToken("<add1>", lstrip=True), AddedToken("<add2>", rstrip=True), AddedToken("<add3>", lstrip=True, rstrip=True, normalized=False),
         AddedToken("ADDED", single_word=True, normalized=False), AddedToken("Word", single_word=True), AddedToken("<mask>", lstrip=True, special=True),
         AddedToken("<|endoftext|>", special=True, normalized=False), AddedToken("é", normalized=True), AddedToken("  ", normalized=False),
         AddedToken("\n\n", normalized=False), AddedToken("<|im", normalized=False), AddedToken("[MASK]", special=True, normalized=True)]
BL = decoders.ByteLevel()
FALLBACK = ["<0x%02X>" % b for b in range(256)]
META_DECODER = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
CHARS = sorted(set("".join(SENTENCES.values())) | set("▁"))[:400]
CHARSMAP = None


def charsmap():
    """The nmt_nfkc map that sentencepiece puts into its models."""
    global CHARSMAP
    if CHARSMAP is None:
        import sentencepiece.sentencepiece_model_pb2 as pb
        proto = pb.ModelProto()
        proto.ParseFromString(spm_model(normalization_rule_name="nmt_nfkc"))
        CHARSMAP = proto.normalizer_spec.precompiled_charsmap
    return CHARSMAP


def seq(*parts):
    return normalizers.Sequence(list(parts))


CONFIGS = {
    # the splitting of today's models, byte-level
    "gpt2": lambda: train(byte_level(regex=True), dec=BL, post=processors.ByteLevel(trim_offsets=False)),
    "gpt2_prefix": lambda: train(byte_level(prefix=True, regex=True), dec=BL, post=processors.ByteLevel(trim_offsets=True)),
    "gpt2_trim": lambda: train(byte_level(regex=True), dec=BL, post=processors.ByteLevel(trim_offsets=True, add_prefix_space=False)),
    "llama3": lambda: train(byte_level(split("llama3")), dec=BL, ignore_merges=True,
                            post=lambda tok: processors.Sequence([processors.ByteLevel(trim_offsets=True), template("<s> $A")(tok)])),
    "qwen2": lambda: train(byte_level(split("qwen2")), norm=normalizers.NFC(), dec=BL, added=ADDED),
    "qwen35": lambda: train(byte_level(split("qwen35")), norm=normalizers.NFC(), dec=BL),
    "tekken": lambda: train(byte_level(split("tekken")), dec=BL, ignore_merges=True, post=template("<s> $A")),
    "gpt4o": lambda: train(byte_level(split("gpt4o")), dec=BL),
    "kimi": lambda: train(byte_level(split("kimi")), dec=BL),
    "deepseek3": lambda: train(byte_level(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split("deepseek3")), dec=BL),
    "deepseek_coder": lambda: train(byte_level(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"),
                                               pre_tokenizers.Digits(True)), dec=BL),
    "starcoder": lambda: train(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]), dec=BL),
    "falcon": lambda: train(pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
                                                     pre_tokenizers.Digits(False), split("[0-9][0-9][0-9]")]), dec=BL),
    "bailing": lambda: train(byte_level(split("bailing")), dec=BL),
    "cl100k": lambda: train(byte_level(split("cl100k", "removed", True)), dec=BL),
    "exaone": lambda: train(byte_level(split("exaone")), dec=BL),
    "bloom": lambda: train(byte_level(split("bloom")), dec=BL),
    "superbpe": lambda: train(byte_level(split(r"\p{N}+"), split(r"(?=(\d{3})+(?!\d))")), dec=BL, corpus=CORPUS[:300]),
    "aya": lambda: train(byte_level(split(r"\d{1,3}(?=(?:\d{3})*\b)"), split("gpt4o")), dec=BL),
    "odd": lambda: train(byte_level(split("odd")), dec=BL),
    "edges": lambda: train(byte_level(split("edges")), dec=BL, corpus=CORPUS[:300]),
    # every behaviour of Split
    "removed": lambda: train(byte_level(split(r"\s+", "removed")), dec=BL),
    "merged_previous": lambda: train(byte_level(split(r"[\s,.]", "merged_with_previous")), dec=BL),
    "merged_next": lambda: train(byte_level(split(r"[\s,.]", "merged_with_next")), dec=BL),
    "contiguous": lambda: train(byte_level(split(r"[\s,.a-c]", "contiguous")), dec=BL),
    "inverted": lambda: train(byte_level(split(r"\p{L}+|\p{N}", "merged_with_next", True)), dec=BL),
    "inverted_previous": lambda: train(byte_level(split(r"\p{L}", "merged_with_previous", True)), dec=BL),
    "text_pattern": lambda: train(byte_level(pre_tokenizers.Split("e.", "isolated"), pre_tokenizers.Split(" ", "merged_with_next")), dec=BL),
    # normalisers
    "nfc": lambda: train(byte_level(regex=True), norm=normalizers.NFC(), dec=BL, added=ADDED),
    "nfd": lambda: train(byte_level(regex=True), norm=normalizers.NFD(), dec=BL, added=ADDED),
    "nfkc": lambda: train(byte_level(regex=True), norm=normalizers.NFKC(), dec=BL, post=processors.ByteLevel(trim_offsets=True)),
    "nfkd": lambda: train(byte_level(regex=True), norm=normalizers.NFKD(), dec=BL),
    "lower": lambda: train(byte_level(regex=True), norm=seq(normalizers.Strip(), normalizers.Lowercase()), dec=BL, added=ADDED),
    "accents": lambda: train(byte_level(regex=True), norm=seq(normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()), dec=BL, added=ADDED),
    "strip_left": lambda: train(byte_level(regex=True), norm=normalizers.Strip(True, False), dec=BL),
    "strip_right": lambda: train(byte_level(regex=True), norm=normalizers.Strip(False, True), dec=BL),
    "replace": lambda: train(byte_level(regex=True), norm=seq(normalizers.Replace(Regex(r"\s+"), " "), normalizers.Replace("``", '"'),
                                                              normalizers.Replace(Regex(r"[aeiou]{2}"), "<>"), normalizers.Replace("e", "")), dec=BL),
    "nmt": lambda: train(byte_level(regex=True), norm=normalizers.Nmt(), dec=BL),
    "byte_normalizer": lambda: train(split("[Ġ ]?[^Ġ ]+"), norm=normalizers.ByteLevel(), dec=BL, added=ADDED),
    "precompiled": lambda: train(pre_tokenizers.Metaspace(), norm=normalizers.Precompiled(charsmap()), dec=decoders.Metaspace(), unk_token="<unk>",
                                 alphabet=CHARS, specials=SPECIAL),
    # BERT
    "bert": lambda: train(pre_tokenizers.BertPreTokenizer(), norm=normalizers.BertNormalizer(), dec=decoders.WordPiece(), unk_token="<unk>",
                          continuing_subword_prefix="##", alphabet=CHARS,
                          post=lambda tok: processors.BertProcessing(("[SEP]", tok.token_to_id("[SEP]")), ("[CLS]", tok.token_to_id("[CLS]")))),
    "bert_cased": lambda: train(pre_tokenizers.BertPreTokenizer(), norm=normalizers.BertNormalizer(lowercase=False, strip_accents=True), dec=decoders.WordPiece(cleanup=False),
                                unk_token="<unk>", alphabet=CHARS),
    "bert_raw": lambda: train(pre_tokenizers.BertPreTokenizer(), norm=normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=False),
                              unk_token="<unk>", fuse_unk=True, alphabet=CHARS, dec=decoders.CTC(pad_token="<pad>", word_delimiter_token="▁")),
    "roberta": lambda: train(byte_level(prefix=True, regex=True), dec=BL, added=ADDED,
                             post=lambda tok: processors.RobertaProcessing(("</s>", tok.token_to_id("</s>")), ("<s>", tok.token_to_id("<s>")), trim_offsets=True)),
    # pre-tokenisers without bytes
    "whitespace": lambda: train(pre_tokenizers.Whitespace(), unk_token="<unk>", alphabet=CHARS, dec=decoders.BPEDecoder(), end_of_word_suffix="</w>", added=ADDED),
    "whitespace_split": lambda: train(pre_tokenizers.WhitespaceSplit(), unk_token="<unk>", fuse_unk=True, alphabet=CHARS),
    "punctuation": lambda: train(pre_tokenizers.Sequence([pre_tokenizers.Punctuation("removed"), pre_tokenizers.Digits(False)]), unk_token="<unk>", alphabet=CHARS,
                                 dec=decoders.Fuse()),
    "delimiter": lambda: train(pre_tokenizers.CharDelimiterSplit("e"), unk_token="<unk>", alphabet=CHARS, dec=decoders.Replace(Regex("[ao]"), "0")),
    "scripts": lambda: train(pre_tokenizers.UnicodeScripts(), unk_token="<unk>", alphabet=CHARS),
    "fixed": lambda: train(pre_tokenizers.FixedLength(5), unk_token="<unk>", alphabet=CHARS),
    "none": lambda: train(None, unk_token="<unk>", alphabet=CHARS, corpus=CORPUS[:200]),
    "prefix_suffix": lambda: train(pre_tokenizers.WhitespaceSplit(), unk_token="<unk>", continuing_subword_prefix="@@", end_of_word_suffix="</w>", alphabet=CHARS),
    # Metaspace, as SentencePiece-like tokenizers use it
    "meta_always": lambda: train(pre_tokenizers.Metaspace(prepend_scheme="always"), dec=decoders.Metaspace(prepend_scheme="always"), unk_token="<unk>",
                                 byte_fallback=True, specials=SPECIAL + FALLBACK, alphabet=CHARS, size=900, added=ADDED),
    "meta_first": lambda: train(pre_tokenizers.Metaspace(prepend_scheme="first", split=False), norm=normalizers.Strip(True, False), dec=META_DECODER, unk_token="<unk>",
                                byte_fallback=True, fuse_unk=True, specials=SPECIAL + FALLBACK, alphabet=CHARS, size=900, corpus=CORPUS[:200], added=ADDED,
                                post=template("<s> $A")),
    "meta_never": lambda: train(pre_tokenizers.Metaspace(prepend_scheme="never"), dec=decoders.Metaspace(prepend_scheme="never"), unk_token="<unk>", fuse_unk=True, alphabet=CHARS),
    "llama2": lambda: train(None, norm=seq(normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")), dec=META_DECODER, unk_token="<unk>", byte_fallback=True, fuse_unk=True,
                            specials=SPECIAL + FALLBACK, alphabet=CHARS, size=900, corpus=CORPUS[:200], post=template("<s> $A")),
    "gemma": lambda: train(pre_tokenizers.Split(" ", "merged_with_previous"), norm=normalizers.Replace(" ", "▁"), unk_token="<unk>", byte_fallback=True, fuse_unk=True,
                           specials=SPECIAL + FALLBACK, alphabet=CHARS, size=900, corpus=CORPUS[:200], post=template("<s> $A"),
                           dec=decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])),
    "partial_fallback": lambda: train(pre_tokenizers.Whitespace(), unk_token="<unk>", byte_fallback=True, specials=SPECIAL + FALLBACK[:200], alphabet=CHARS[:100],
                                      dec=decoders.Sequence([decoders.ByteFallback(), decoders.Strip("a", 1, 1)])),
    "no_unk": lambda: train(pre_tokenizers.Whitespace(), alphabet=CHARS[:120], dec=decoders.WordPiece(prefix="e")),
    "holes": lambda: holes(),
    # WordPiece
    "wordpiece": lambda: wordpiece(norm=normalizers.BertNormalizer(), post=bert_template),
    "wordpiece_cased": lambda: wordpiece(norm=normalizers.BertNormalizer(lowercase=False), post=bert_template, dec=decoders.WordPiece(cleanup=False)),
    "wordpiece_accents": lambda: wordpiece(norm=normalizers.BertNormalizer(handle_chinese_chars=False, strip_accents=False), post=bert_template),
    "wordpiece_stripped": lambda: wordpiece(norm=normalizers.BertNormalizer(lowercase=False, strip_accents=True), post=bert_processing, added=ADDED),
    "wordpiece_raw": lambda: wordpiece(norm=normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False), max_chars=7),
    "wordpiece_prefix": lambda: wordpiece(pre=pre_tokenizers.WhitespaceSplit(), prefix="@@", dec=decoders.WordPiece(prefix="@@"), added=ADDED,
                                          post=lambda tok: processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), trim_offsets=True)),
    "wordpiece_whole": lambda: wordpiece(pre=None, norm=normalizers.Lowercase(), max_chars=100000, corpus=CORPUS[:200]),
    # Unigram
    "unigram": lambda: unigram(pre=pre_tokenizers.Metaspace(), dec=decoders.Metaspace(), added=ADDED,
                               post=lambda tok: processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])),
    "unigram_first": lambda: unigram(pre=pre_tokenizers.Metaspace(prepend_scheme="first", split=False), dec=META_DECODER, norm=normalizers.NFKC(), byte_fallback=True,
                                     specials=["<pad>", "</s>", "<unk>"] + FALLBACK, size=1200, added=ADDED),
    "unigram_never": lambda: unigram(pre=pre_tokenizers.Metaspace(prepend_scheme="never"), dec=decoders.Metaspace(prepend_scheme="never"), byte_fallback=True,
                                     specials=["<pad>", "</s>", "<unk>"] + FALLBACK[:200]),
    "unigram_t5": lambda: unigram(pre=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]), norm=normalizers.Precompiled(charsmap()),
                                  dec=decoders.Metaspace(), added=[AddedToken("<extra_id_%d>" % i, special=True, normalized=False) for i in range(9, -1, -1)],
                                  post=lambda tok: processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])),
    "unigram_bytes": lambda: unigram(pre=byte_level(regex=True), dec=BL),
    "unigram_whole": lambda: unigram(corpus=LETTERS[:40]),
    "unigram_by_hand": lambda: unigram_by_hand(),
}


def holes():
    """Ids that are not contiguous, added tokens beyond the vocabulary, merges in the older written form."""
    data = json.loads(train(byte_level(regex=True), dec=BL, specials=[]).to_str())
    data["model"]["vocab"] = {t: i for t, i in data["model"]["vocab"].items()}
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    tok = Tokenizer.from_str(json.dumps(data))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<s>", "</s>", "<|im_start|>")])
    tok.add_tokens(["ADDED", "added"])
    return tok


# --- SentencePiece ---

def spm_model(**options):
    import io
    import sentencepiece as spm
    out = io.BytesIO()
    args = dict(model_type="bpe", vocab_size=900, character_coverage=0.995, byte_fallback=True, add_dummy_prefix=True, remove_extra_whitespaces=False,
                normalization_rule_name="identity", split_digits=True, max_sentence_length=20000, num_threads=1, self_test_sample_size=0, minloglevel=2, hard_vocab_limit=False)
    args.update(options)
    lines = [line for text in list(SENTENCES.values())[:24] * 3 + CODE * 4 for line in text.split("\n")]
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **args)
    return out.getvalue()


SPM = {
    "spm_llama": {},
    "spm_no_prefix": dict(add_dummy_prefix=False),
    "spm_strip": dict(remove_extra_whitespaces=True),
    "spm_nmt": dict(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True),
    "spm_no_fallback": dict(byte_fallback=False),
    "spm_whole": dict(split_by_whitespace=False, allow_whitespace_only_pieces=True, max_sentencepiece_length=24),
    "spm_unigram": dict(model_type="unigram", byte_fallback=False, remove_extra_whitespaces=True),
    "spm_unigram_bytes": dict(model_type="unigram", add_dummy_prefix=False, user_defined_symbols=["<add1>", "the", "  ", "人"]),
    "spm_unigram_t5": dict(model_type="unigram", byte_fallback=False, normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
                           user_defined_symbols=["Ａ", "ﬁ", "e of", "１２"]),
    "spm_unigram_whole": dict(model_type="unigram", split_by_whitespace=False, allow_whitespace_only_pieces=True, max_sentencepiece_length=24),
}


def spm_gguf(model, path, prefix=True):
    """A SentencePiece model as a llama.cpp vocabulary."""
    import gguf
    import sentencepiece as spm
    sp = spm.SentencePieceProcessor(model_proto=model)
    tokens, scores, types = [], [], []
    for i in range(sp.vocab_size()):
        tokens.append(sp.id_to_piece(i).encode())
        scores.append(sp.get_score(i))
        types.append(2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 5 if sp.is_unused(i) else 6 if sp.is_byte(i) else 1)
    for text in ("<|im_start|>", "<add1>", "\n\n"):
        tokens.append(text.encode())
        scores.append(-1000.0)
        types.append(3 if text.startswith("<|") else 4)
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokens)
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_space_prefix(prefix)
    write_vocabulary(w)


def write_vocabulary(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# --- what the references give ---

def decode_replaced(data):
    """The text that bytes.decode("utf-8", "replace") gives, and the byte range behind each character."""
    chars, spans, at = [], [], 0
    while at < len(data):
        try:
            good, bad = data[at:].decode(), None
        except UnicodeDecodeError as e:
            good, bad = data[at:at + e.start].decode(), e.end - e.start
        for c in good:
            n = len(c.encode())
            chars.append(c)
            spans.append((at, at + n))
            at += n
        if bad:
            chars.append("\ufffd")
            spans.append((at, at + bad))
            at += bad
    text = "".join(chars)
    assert text == data.decode("utf-8", "replace")
    return text, spans


def pack_ids(ids):
    return struct.pack("<%di" % len(ids), *ids)


def byte_spans(offsets, spans):
    return [(spans[a][0], spans[b - 1][1]) if a < b else (0, 0) for a, b in offsets]


def pack_spans(pairs):
    return b"".join(struct.pack("<II", *p) for p in pairs)


def save_crcs(name, rows):
    """rows: for each text the five parts as bytes, None where not compared."""
    flags, sums = bytearray(), []
    for parts in rows:
        flags.append(sum(1 << i for i, part in enumerate(parts) if part is not None))
        sums.append(zlib.crc32(b"".join(part for part in parts if part is not None)))
    save(name + ".crc.gz", bytes(flags) + struct.pack("<%dI" % len(sums), *sums))


def alphabet_of(tok):
    """The vocabulary where a character may have no symbol and no unknown token to stand for it, else None."""
    model = json.loads(tok.to_str())["model"]
    return None if model.get("unk_token") or model["type"] == "Unigram" else set(model["vocab"])


def drops(tok, text, vocab):
    """True when a character is dropped: the reference then counts bytes wrongly."""
    if "Precompiled" in str(tok.normalizer) and any(tok.normalizer.normalize_str(c) == "" for c in text):
        return True
    if vocab is None:
        return False
    pieces = tok.pre_tokenizer.pre_tokenize_str(tok.normalizer.normalize_str(text) if tok.normalizer else text) if tok.pre_tokenizer else [(text, None)]
    return any(c not in vocab for p, _ in pieces for c in p)


def reference(tok, data, vocab):
    text, spans = decode_replaced(data)
    plain = tok.encode(text, add_special_tokens=False)
    special = tok.encode(text, add_special_tokens=True)
    tok.encode_special_tokens = True
    raw = tok.encode(text, add_special_tokens=False)
    tok.encode_special_tokens = False
    return dict(ids=plain.ids, spans=None if drops(tok, text, vocab) else byte_spans(plain.offsets, spans), special=special.ids, raw=raw.ids,
                tokens=plain.tokens, text=tok.decode(special.ids, skip_special_tokens=False) if special.ids else "",
                short=tok.decode(special.ids, skip_special_tokens=True) if special.ids else "")


def save(name, data):
    with gzip.GzipFile(OUT / name, "wb", 9, mtime=0) as f:
        f.write(data)


def safe_reference(tok, data, vocab):
    try:
        return reference(tok, data, vocab)
    except BaseException as e:  # a panic of the Rust library
        if "Panic" not in type(e).__name__:
            raise
        return None


def rows(name, tok):
    vocab = alphabet_of(tok)
    for data in TEXTS:
        r = safe_reference(tok, data, vocab)
        if r is not None and name == "partial_fallback":  # counts the bytes of an unknown run where the run ends
            r["spans"] = None
        if r is None:
            text, _ = decode_replaced(data)
            yield pack_ids(tok.encode(text, add_special_tokens=False).ids), None, None, None, None
            continue
        yield (pack_ids(r["ids"]), pack_spans(r["spans"]) if r["spans"] is not None else None, pack_ids(r["special"]), pack_ids(r["raw"]),
               r["text"].encode() + b"\0" + r["short"].encode())


def make_tokenizers(names=None):
    for name, build in CONFIGS.items():
        if names and name not in names:
            continue
        tok = build()
        save(name + ".json.gz", tok.to_str().encode())
        save_crcs(name, rows(name, tok))
        print(name, tok.get_vocab_size(), flush=True)


def make_sentencepiece(names=None):
    import sentencepiece as spm
    for name, options in SPM.items():
        if names and name not in names:
            continue
        model = spm_model(**options)
        sp = spm.SentencePieceProcessor(model_proto=model)
        save(name + ".model.gz", model)
        # Control symbols are never parsed: the ids with special tokens not parsed.
        save_crcs(name, [(None, None, None, pack_ids(sp.encode(decode_replaced(data)[0])), None) for data in TEXTS])
        print(name, sp.vocab_size(), flush=True)


def bert_gguf(tok, path, lower):
    """A WordPiece vocabulary as llama.cpp's converter writes it."""
    import gguf
    vocab = [tok.id_to_token(i) for i in range(tok.get_vocab_size())]
    w = gguf.GGUFWriter(path, "bert")
    w.add_tokenizer_model("bert")
    w.add_token_list([t if t[0] == "[" and t[-1] == "]" else t[2:] if t.startswith("##") else "▁" + t for t in vocab])
    w.add_token_types([3 if t in BERT_SPECIAL else 1 for t in vocab])
    for key, text in (("unknown", "[UNK]"), ("seperator", "[SEP]"), ("padding", "[PAD]"), ("cls", "[CLS]"), ("mask", "[MASK]")):
        w.add_uint32("tokenizer.ggml.%s_token_id" % key, vocab.index(text))
    if not lower:
        w.add_bool("tokenizer.ggml.normalizer.lowercase", False)
    write_vocabulary(w)


def t5_gguf(model, path):
    """A SentencePiece model of type unigram as llama.cpp's converter writes it, with two sentinels."""
    import gguf
    import sentencepiece.sentencepiece_model_pb2 as pb
    proto = pb.ModelProto()
    proto.ParseFromString(model)
    w = gguf.GGUFWriter(path, "t5")
    w.add_tokenizer_model("t5")
    w.add_token_list([p.piece for p in proto.pieces] + ["<extra_id_1>", "<extra_id_0>"])
    w.add_token_scores([p.score for p in proto.pieces] + [-1000.0] * 2)
    w.add_token_types([p.type for p in proto.pieces] + [4] * 2)
    w.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
    w.add_remove_extra_whitespaces(proto.normalizer_spec.remove_extra_whitespaces)
    w.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    w.add_eos_token_id(1)
    w.add_unk_token_id(2)
    w.add_pad_token_id(0)
    write_vocabulary(w)


def make_family_gguf(names=None):
    """What the models' own libraries give: llama.cpp's own normaliser for BERT differs on rare letters."""
    import sentencepiece as spm
    for name, of in (("gguf_bert", "wordpiece"), ("gguf_bert_cased", "wordpiece_cased"), ("gguf_t5", None)):
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "vocab.gguf"
            if of:
                tok = CONFIGS[of]()
                tok.decoder = decoders.WordPiece()
                bert_gguf(tok, path, "cased" not in of)
                save_crcs(name, rows(name, tok))
            else:
                model = spm_model(**{k: v for k, v in SPM["spm_unigram_t5"].items() if k != "user_defined_symbols"})
                t5_gguf(model, path)
                sp = spm.SentencePieceProcessor(model_proto=model)
                save_crcs(name, [(pack_ids(sp.encode(text)) if b"<extra" not in data and "</s>" not in text and "<unk>" not in text and "<pad>" not in text else None, None,
                                  None, None, None) for data in TEXTS for text in [decode_replaced(data)[0]]])
            save(name + ".gguf.gz", path.read_bytes())
        print(name, flush=True)


def make_gguf():
    import llama_cpp
    for name, prefix in (("gguf_llama", True), ("gguf_no_prefix", False)):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "vocab.gguf"
            spm_gguf(spm_model(add_dummy_prefix=prefix), path, prefix)
            save(name + ".gguf.gz", path.read_bytes())
            save_crcs(name, llama_cpp_rows(llama_cpp, path))
        print(name, flush=True)


def llama_cpp_rows(llama_cpp, path):
    llm = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text, _ in map(decode_replaced, TEXTS):
        data = text.encode()
        if b"\0" in data:  # the C string ends there
            yield None, None, None, None, None
        else:
            yield (pack_ids(llm.tokenize(data, add_bos=False, special=True)), None, pack_ids(llm.tokenize(data, add_bos=True, special=True)),
                   pack_ids(llm.tokenize(data, add_bos=False, special=False)), None)


def make_packaged(path):
    """The packaged model's vocabulary through transformers, with the splitting that its file names (tokenizer.ggml.pre =
    smollm: digits one by one, then GPT-2's expression), which transformers 5.23 passes over."""
    from transformers import AutoTokenizer
    p = pathlib.Path(path)
    tok = AutoTokenizer.from_pretrained(str(p.parent), gguf_file=p.name).backend_tokenizer
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    out, vocab = [], alphabet_of(tok)
    for data in TEXTS:
        r = reference(tok, data, vocab)
        spans = r["spans"] if r["spans"] is not None else [(0xFFFFFFFF,) * 2] * len(r["ids"])
        out.append(struct.pack("<I%dH" % len(r["ids"]), len(r["ids"]), *r["ids"]) + pack_spans(spans))
    save("smollm2.ids.gz", b"".join(out))
    print("smollm2", tok.get_vocab_size())


def main():
    if sys.argv[1:2] == ["--packaged"]:
        return make_packaged(sys.argv[2])
    if sys.argv[1:2] == ["--show"]:
        tok = Tokenizer.from_str(gzip.open(OUT / (sys.argv[2] + ".json.gz")).read().decode())
        data = TEXTS[int(sys.argv[3])]
        print(repr(data), safe_reference(tok, data, alphabet_of(tok)))
        return
    if sys.argv[1:2] == ["--only"]:
        make_tokenizers(sys.argv[2:])
        make_sentencepiece(sys.argv[2:])
        return make_family_gguf(sys.argv[2:])
    OUT.mkdir(parents=True, exist_ok=True)
    save("texts.gz", struct.pack("<I", len(TEXTS)) + b"".join(struct.pack("<I", len(t)) + t for t in TEXTS))
    make_tokenizers()
    make_sentencepiece()
    make_gguf()
    make_family_gguf()
    if len(sys.argv) > 1:
        make_packaged(sys.argv[1])


main()
