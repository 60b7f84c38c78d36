#!/usr/bin/env python3
"""Makes the demo's records: a long description in, a one-line synopsis out, as conversations.

Usage: make_demo_data.py [--train N] [--heldout N] SOURCE OUT

SOURCE is JSON Lines with the fields package, description and synopsis (tools/fetch.py makes it from Debian's package
descriptions), or with prompt and completion (examples/data/synopses.jsonl). OUT gets train.jsonl and heldout.jsonl, each
line {"prompt": [user's message], "completion": [assistant's message]}. The same source gives the same files.

Many packages share their text: a library, its headers and its documentation; a sentence about the project that stands in
fifty descriptions. Descriptions that share a sentence, a synopsis or the stem of their name form a family, and of each
family one record is taken, so that no held-out record has a twin in training. A hash of the package's name decides the
order. Status: 0 done, 1 failed, 2 wrong usage. Needs Python 3.8."""
import argparse
import hashlib
import json
import os
import pathlib
import re
import sys

QUESTION = "Describe this package in one short line."
DESCRIPTION = (150, 900)  # characters that are neither too little to go by nor too slow for a demo
SYNOPSIS = (12, 80)
SHARED_WORDS = 7  # a sentence of at least that many words makes two descriptions relatives
PREFIX = re.compile(r"^(lib|python3?-|ruby-|golang-|node-|r-cran-|r-bioc-|php-|rust-|fonts?-|texlive-|gir1\.2-)+")
SUFFIX = re.compile(r"([-.]?(dev|doc|docs|dbg|data|common|bin|utils|tools|all|core|extra|plugins?|java|perl|dkms|gtk|qt|x11|nox|"
                    r"headers|examples|tests|static|\d[\d.a-z]*))+$")
DULL = re.compile(r"transitional|dummy|metapackage|meta-package|virtual package|debug(ging)? symbols|cross[- ]compil|"
                  r"\(| --? |[;:]", re.I)  # "NAME -- shared library" says which part of a project, not what it is
DULL_NAME = re.compile(r"-(dev|doc|docs|dbg|dbgsym|udeb|di|locales?|l10n|i18n)(-|$)|^(task|education|science|med|hunspell|aspell|"
                       r"myspell|hyphen|mythes|libreoffice-(l10n|help)|firefox-esr-l10n|thunderbird-l10n|kde-l10n)-")


def key(text):
    return hashlib.sha256(text.encode()).hexdigest()


def squeeze(text):
    return "\n\n".join(" ".join(p.split()) for p in text.split("\n\n") if p.strip())


def read(path):
    """Yields (name, description, synopsis)."""
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                r = json.loads(line)
                if "description" in r:
                    yield r["package"], squeeze(r["description"]), squeeze(r["synopsis"]).rstrip(".")
                else:
                    yield "record " + key(r["prompt"]), squeeze(r["prompt"]), squeeze(r["completion"])
            except (ValueError, KeyError, TypeError) as e:
                raise SystemExit(f"{path}:{number}: expected package, description and synopsis, or prompt and completion: {e!r}")


def is_good(record):
    name, description, synopsis = record
    return (DESCRIPTION[0] <= len(description) <= DESCRIPTION[1] and SYNOPSIS[0] <= len(synopsis) <= SYNOPSIS[1]
            and synopsis.lower() not in description.lower() and not DULL.search(synopsis) and not DULL_NAME.search(name))


def traits(record):
    """What makes two records relatives."""
    name, description, synopsis = record
    stem = SUFFIX.sub("", PREFIX.sub("", name)) if " " not in name else name
    yield "name " + (stem if len(stem) > 2 else name)
    yield "synopsis " + re.sub(r"\W+", " ", synopsis.lower())
    for sentence in re.split(r"(?<=[.!?:])\s+|\n\n", description.lower()):
        words = re.findall(r"\w+", sentence)
        if len(words) >= SHARED_WORDS:
            yield "sentence " + " ".join(words)


def families(records):
    """One record of each family, in the order of their hashes."""
    parent = list(range(len(records)))

    def root(i):
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first = {}
    for i, record in enumerate(records):
        for trait in traits(record):
            parent[root(i)] = root(first.setdefault(trait, i))
    best = {}
    for i, record in enumerate(records):
        r = root(i)
        if r not in best or key(record[0]) < key(records[best[r]][0]):
            best[r] = i
    return sorted((records[i] for i in best.values()), key=lambda record: key(record[0]))


def write(path, records):
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with open(beside, "w", encoding="utf-8") as f:
        for _, description, synopsis in records:
            f.write(json.dumps({"prompt": [{"role": "user", "content": f"{QUESTION}\n\n{description}"}],
                                "completion": [{"role": "assistant", "content": synopsis}]}, ensure_ascii=False) + "\n")
    beside.replace(path)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--train", type=int, default=1500, help="training records at most (default 1500)")
    p.add_argument("--heldout", type=int, default=50, help="held-out records, at most a quarter of all (default 50)")
    p.add_argument("source", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    args = p.parse_args()
    stamp, files = args.out / "made-from", [args.out / "train.jsonl", args.out / "heldout.jsonl"]
    try:
        facts = args.source.stat()
        made = f"{args.source.resolve()} {facts.st_size} {facts.st_mtime_ns} {args.train} {args.heldout} {key(open(__file__).read())}\n"
        if stamp.exists() and stamp.read_text() == made and all(f.exists() for f in files):
            return
        records = families([r for r in read(args.source) if is_good(r)])
        heldout = min(args.heldout, len(records) // 4)
        if heldout < 1 or args.train < 1:
            raise SystemExit(f"{args.source}: expected at least 4 records of fitting length, found {len(records)}")
        args.out.mkdir(parents=True, exist_ok=True)
        write(files[0], records[heldout:heldout + args.train])
        write(files[1], records[:heldout])
        stamp.write_text(made)
    except OSError as e:
        raise SystemExit(f"{e.filename}: {e.strerror}")
    print(f"{len(records)} families: {heldout} records held out, {min(args.train, len(records) - heldout)} to train on", file=sys.stderr)


main()
