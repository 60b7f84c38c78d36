#!/usr/bin/env python3
"""Writes tests/golden/metrics/: texts with their scores.

rouge.jsonl  target, prediction, and for use_stemmer False and True the twelve numbers of rouge-score 0.1.2 (rouge1,
             rouge2, rougeL, rougeLsum; precision, recall, F)
bleu.jsonl   pairs of target and prediction, sacrebleu 2.6's corpus_bleu over them (score, and stats: lengths, matched and
             all n-grams)
stems.txt    word and stem, nltk 3.10.4's PorterStemmer
match.jsonl  texts with str.lower(), exact match under each set of flags (as lm-eval 0.4.13's exact_match computes it:
             lower case, punctuation and digits removed; bit 8 strips first), and SQuAD 1.1's F1 (precision, recall, F)

Usage: make_metrics.py tests/golden/metrics
Made with Python 3.11 (Unicode 14), rouge-score 0.1.2, nltk 3.10.4, sacrebleu 2.6.0; seed 7."""
import collections
import json
import pathlib
import random
import re
import string
import sys

from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer
import sacrebleu

WORDS = """the a an and of to in is it package library tools simple fast small running runs ran quickly happily dogs foxes jumped
jumping over lazy brown organisations organizational relational conditional rational digitizer conformably radically
differently vilely analogously vietnamization predication operator feudalism decisiveness hopefulness callousness
formality sensitivity sensibility triplicate formative formalize electricity electrical hopeful goodness revival allowance
inference airliner gyroscopic adjustable defensible irritant replacement adjustment dependent adoption homologous
communism activate angularities effective bowdlerize probate rate cease controll roll sky skies dying lying tying news
innings proceed exceed succeed flies dies spied died agreed feed plastered bled motoring sing conflated troubled sized
hopping tanned falling hissing fizzed failing filing happy enjoy enjoyment spy fly try geology theology archaeology
philology 3D x86 utf8 2024 i18n yyyy syzygy toy by""".split()
UNICODE = ["naïve", "Ünïcode", "Straße", "ΣΊΣΥΦΟΣ", "ΑΣ Σ", "İstanbul", "KELVIN \u212a", "日本語", "emoji 😀 text", "e\u0301clair",
           "ﬁn", "Ωmega", "ДОМ", "a\u00a0b", "x\u2028y", "tab\tnew\nline", "ΑΣ.", "ΑΣ.Α", "Α'Σ", "\u01c5", "É", "the\u00e9", "ªa", "a²", "١٢"]


def sentence(rng, n):
    out = []
    for _ in range(n):
        w = rng.choice(WORDS) if rng.random() < 0.93 else rng.choice(UNICODE)
        if rng.random() < 0.15:
            w = w.upper()
        elif rng.random() < 0.15:
            w = w.capitalize()
        out.append(w + rng.choice(["", "", "", "", ",", ".", "!", "-", " (x)", "'s", "\n", "\n\n"]))
    return " ".join(out)


def texts(rng):
    pairs = [("", ""), ("", "a b"), ("a b", ""), ("...", "..."), ("a", "a"), ("\n\n", "\n"), ("a b c", "c b a"),
             ("a b\nc d", "c d\na b"), ("the cat sat", "the the the"), ("x " * 200, "x " * 150), ("y" * 3000, "y" * 3000 + "ing")]
    pairs += [(u, v) for u in UNICODE for v in (u, u.lower(), rng.choice(UNICODE))]
    for _ in range(140):
        a = sentence(rng, rng.randint(1, 25))
        parts = a.split(" ")
        rng.shuffle(parts) if rng.random() < 0.3 else None
        kept = [p for p in parts if rng.random() < 0.7] + sentence(rng, rng.randint(0, 6)).split(" ")
        pairs.append((a, " ".join(kept)))
    for _ in range(6):
        pairs.append((sentence(rng, 220), sentence(rng, 200)))
    return pairs


def words(rng):
    ends = ["", "s", "es", "ies", "ied", "ed", "eed", "ing", "y", "ational", "tional", "enci", "anci", "izer", "bli", "alli", "entli",
            "eli", "ousli", "ization", "ation", "ator", "alism", "iveness", "fulness", "ousness", "aliti", "iviti", "biliti",
            "fulli", "logi", "icate", "ative", "alize", "iciti", "ical", "ful", "ness", "al", "ance", "ence", "er", "ic", "able",
            "ible", "ant", "ement", "ment", "ent", "sion", "tion", "ou", "ism", "ate", "iti", "ous", "ive", "ize", "e", "ll", "sses",
            "ss", "atted", "bled", "izing", "lled", "zzing", "ssed", "pping", "allialli"]
    stems = ["", "b", "a", "y", "ab", "by", "tr", "try", "yab", "bay", "beb", "oba", "str", "acad", "hop", "fail", "log", "geo", "x9", "syzyg",
             "control", "multi", "ay", "yy", "ayy"]
    out = set(WORDS) | {s + e for s in stems for e in ends}
    for _ in range(800):
        out.add("".join(rng.choice("aeiouybcdlnrstz") for _ in range(rng.randint(1, 7))) + rng.choice(ends))
    return sorted(w.lower() for w in out if w)


def write_bleu(path, pairs, rng):
    """Every pair alone, with what mteval's words are made of in it, and corpora of up to 40."""
    odd = [".", ",", "-", "1.5", "1,000", "3-4", "a-", "x.y", "...", "&quot;a&quot;", "&amp;lt;", "<skipped>", "end-\nof", "it's",
           "$5.00", "[x]", "{y}", "~", "`q`", "1.", ".1", "a,b", "9-", "-9", "e.g.", "\u3000", "\x1c", "caf\u00e9.", "\u00e9,\u00e9"]
    mixed = [" ".join(rng.choice(odd + WORDS) for _ in range(rng.randint(0, 14))) for _ in range(240)]
    cases = [[p] for p in pairs if len(p[0]) < 300] + [[(a, b)] for a, b in zip(mixed, mixed[1:])]
    cases += [[(a, " ".join(w for w in a.split(" ") if rng.random() < 0.8))] for a in mixed]
    pool = [p for c in cases for p in c]
    cases += [[rng.choice(pool) for _ in range(rng.randint(2, 12))] for _ in range(40)]
    with open(path, "w") as f:
        for case in cases:
            b = sacrebleu.corpus_bleu([p for _, p in case], [[t for t, _ in case]])
            f.write(json.dumps({"pairs": case, "score": b.score, "stats": [b.sys_len, b.ref_len, *b.counts, *b.totals]}) + "\n")


def lm_eval_match(a, b, flags):
    if flags & 8:
        a, b = a.strip(), b.strip()
    if flags & 1:
        a, b = a.lower(), b.lower()
    for bit, drop in ((2, string.punctuation), (4, string.digits)):
        if flags & bit:
            table = str.maketrans("", "", drop)
            a, b = a.translate(table), b.translate(table)
    return int(a == b)


def squad(target, prediction):
    def norm(s):
        s = "".join(c for c in s.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", s).split()
    t, p = norm(target), norm(prediction)
    same = sum((collections.Counter(t) & collections.Counter(p)).values())
    if same == 0:
        return [0.0, 0.0, 0.0]
    precision, recall = same / len(p), same / len(t)
    return [precision, recall, 2 * precision * recall / (precision + recall)]


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorers = [rouge_scorer.RougeScorer(kinds, use_stemmer=stem) for stem in (False, True)]
    pairs = texts(rng)
    with open(out / "rouge.jsonl", "w") as f:
        for target, prediction in pairs:
            scores = [[x for k in kinds for x in s.score(target, prediction)[k]] for s in scorers]
            f.write(json.dumps({"target": target, "prediction": prediction, "plain": scores[0], "stem": scores[1]}) + "\n")
    write_bleu(out / "bleu.jsonl", pairs, random.Random(8))
    stemmer = PorterStemmer()
    (out / "stems.txt").write_text("".join(f"{w} {stemmer.stem(w)}\n" for w in words(rng)))
    pairs += [(a, b) for a, _ in pairs[:60] for b in (a, a.upper(), f" {a}\u2003", a.replace(" ", ""), re.sub(r"[.,!0-9]", "", a))]
    pairs += [("the an a", "x"), ("the_an", "the an"), ("an-apple a.b", "apple b"), ("a\u0301 the", "the")]
    with open(out / "match.jsonl", "w") as f:
        for a, b in pairs:
            if len(a) < 400:
                f.write(json.dumps({"target": a, "prediction": b, "lower": a.lower(), "f1": squad(a, b),
                                    "match": [lm_eval_match(a, b, flags) for flags in range(16)]}) + "\n")


main()
