#!/bin/bash
# A real encoder learns real sentiment: the packaged BERT on a sixth of the rated movie reviews tells most of the others.
set -u
cache=${GRAFT_TEST_CACHE:-${GRAFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/graft}}
model="$cache/models/all-MiniLM-L6-v2"
[ -f "$model/model.safetensors" ] && [ -f "$cache/data/reviews/test.jsonl" ] || exit 77
work=$(mktemp -d "$BUILD_DIR/tests/reviews-XXXXXX")
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; cat "$work/out" "$work/err" 2>/dev/null; exit 1; }

awk 'NR % 6 == 0' "$cache/data/reviews/train.jsonl" >"$work/train.jsonl"
awk 'NR % 3 == 0' "$cache/data/reviews/test.jsonl" >"$work/test.jsonl"
"$GRAFT" sft -m "$model" --task-type SEQ_CLS --data "$work/train.jsonl" --method full --num-train-epochs 1 --learning-rate 2e-4 \
    --batch-size 16 --save-strategy no -o "$work/out_model" -q >"$work/out" 2>"$work/err" || fail "training"
"$GRAFT" eval -m "$work/out_model" --data "$work/test.jsonl" --json >"$work/out" 2>"$work/err" || fail "evaluation"
accuracy=$(sed 's/.*"accuracy": \([0-9.]*\),.*/\1/' "$work/out")
awk -v a="$accuracy" 'BEGIN { exit !(a > 0.75) }' || fail "accuracy $accuracy, expected more than 0.75"
exit 0
