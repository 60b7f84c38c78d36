#!/bin/bash
# tools/fetch.py without a network: what lies in the cache is not fetched again, failures are sentences, and the
# descriptions are read and laid out as they should be.
set -u
command -v python3 >/dev/null || exit 77
work=$(mktemp -d "$BUILD_DIR/tests/fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
fetch="$SOURCE_DIR/tools/fetch.py"
fail() { echo "FAILED: $*"; cat "$work/err" 2>/dev/null; exit 1; }

python3 "$fetch" nonsense >"$work/out" 2>"$work/err"
[ $? -eq 2 ] || fail "an unknown thing is wrong usage"
grep -q "unknown thing 'nonsense' (known: tables, model, descriptions, encoder, reviews)" "$work/err" || fail "the unknown thing is named"

# Files that are there: at once, paths on stdout, nothing on stderr, no pip and no apt.
mkdir -p "$work/cache/models" "$work/cache/data" "$work/empty"
truncate -s 98362432 "$work/cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
echo '{}' >"$work/cache/data/descriptions.jsonl"
python=$(python3 -c 'import sys; print(sys.executable)')
for place in "--cache $work/cache" ""; do
    GRAFT_CACHE="$work/cache" PATH="$work/empty" "$python" "$fetch" $place >"$work/out" 2>"$work/err" || fail "a full cache is enough"
    [ "$(head -1 "$work/out")" = "$work/cache/models/SmolLM2-135M-Instruct.Q4_1.gguf" ] || fail "the model's path"
    [ "$(tail -1 "$work/out")" = "$work/cache/data/descriptions.jsonl" ] || fail "the data's path"
    [ -s "$work/err" ] && fail "nothing on stderr"
done

# Without apt: one sentence and status 1, nothing half written.
PATH="$work/empty" "$python" "$fetch" --cache "$work/other" descriptions >"$work/out" 2>"$work/err"
[ $? -eq 1 ] || fail "without apt the status is 1"
grep -q "apt is not on this system" "$work/err" || fail "without apt it says so"
[ -s "$work/out" ] && fail "no path without a file"
[ -e "$work/other/data/descriptions.jsonl" ] && fail "no file without apt"

# A cache that cannot be made.
echo x >"$work/file"
python3 "$fetch" --cache "$work/file/sub" model >"$work/out" 2>"$work/err"
[ $? -eq 1 ] || fail "an impossible cache is a failure"
grep -q "$work/file" "$work/err" || fail "the impossible cache is named"

python3 - "$SOURCE_DIR/tools" <<'PY' || fail "parsing"
import sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import fetch
text = """Package: one
Description-md5: 0
Description-en: short line
 First paragraph that
 is wrapped.
 .
 A list:
 * item one
   goes on
 * item two
 .
   verbatim  text
   second line

Package: two
Description-en: no long text

Package: three
Description-de: nicht englisch
 langer Text
"""
rows = list(fetch.parse_translations(text))
assert rows == [("one", "short line", "First paragraph that is wrapped.\n\nA list:\n* item one goes on\n* item two\n\n"
                 "  verbatim  text\n  second line")], rows
text = """Package: one
Source: origin (1.2)
Section: games
Tag: game::strategy, interface::x11,
 role::program
Homepage: http://one.example/
Description: a game of one

Package: two
Section: games
Description: without tags
"""
rows = list(fetch.parse_packages(text))
assert rows == [{"package": "one", "source": "origin", "section": "games", "homepage": "http://one.example/",
                 "tags": ["game::strategy", "interface::x11", "role::program"], "synopsis": "a game of one"}], rows
PY
echo "fetch.py holds"
