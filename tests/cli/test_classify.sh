#!/bin/bash
# A classifier from the command line: trained, measured, asked; and the masks of a masked language model.
set -u
work=$(mktemp -d "$BUILD_DIR/tests/classify-XXXXXX")
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; cat "$work/out" "$work/err" 2>/dev/null; exit 1; }

mkdir "$work/model"
cp "$SOURCE_DIR"/tests/golden/families/bert/{config.json,model.safetensors} "$SOURCE_DIR"/tests/golden/classify/bert/*.json "$work/model"
for i in 1 2 3 4 5 6; do
    echo '{"text": "the film was good and funny", "label": "positive"}'
    echo '{"text": "a very slow plot", "label": "negative"}'
    echo '{"text": "great actor", "text_pair": "good story", "label": "positive"}'
    echo '{"text": "dull and poor", "text_pair": "not fast", "label": "negative"}'
done >"$work/data.jsonl"

"$GRAFT" sft -m "$work/model" --dtype f32 --task-type SEQ_CLS --data "$work/data.jsonl" --eval-data "$work/data.jsonl" \
    --eval-strategy epoch --num-train-epochs 12 --learning-rate 1e-2 --target-modules query,value,dense --load-best-model-at-end \
    --metric-for-best-model f1 --save-strategy epoch -o "$work/adapter" >"$work/out" 2>"$work/err" || fail "training"
grep -q '"eval_accuracy": 1' "$work/adapter/trainer_log.jsonl" || fail "the log has an accuracy of 1"
grep -q '"eval_f1": 1' "$work/adapter/trainer_log.jsonl" || fail "the log has F1"
grep -q '"positive"' "$work/adapter/classes.json" || fail "the labels are kept"

"$GRAFT" eval -m "$work/model" --dtype f32 --adapter "$work/adapter" --data "$work/data.jsonl" >"$work/out" 2>"$work/err" || fail "eval"
grep -q 'accuracy *100.00 %' "$work/out" || fail "accuracy"
grep -q 'negative *12 *0' "$work/out" || fail "the counts"
grep -q 'initial values' "$work/err" && fail "the adapter brings the head"
"$GRAFT" sft -m "$work/model" --dtype f32 --task-type SEQ_CLS --adapter "$work/adapter" --data "$work/data.jsonl" --max-steps 1 -o "$work/on" \
    >"$work/out" 2>"$work/err" || fail "training goes on"
grep -q 'initial values' "$work/err" && fail "the adapter brings the head to another run"
"$GRAFT" sft -m "$work/model" --dtype f32 --task-type SEQ_CLS --data "$work/data.jsonl" --max-steps 1 -o "$work/new" \
    >"$work/out" 2>"$work/err" || fail "another head"
grep -q 'initial values' "$work/err" || fail "a head that is made is told"
"$GRAFT" eval -m "$work/model" --dtype f32 --adapter "$work/adapter" --data "$work/data.jsonl" --json >"$work/out" 2>"$work/err" || fail "eval --json"
grep -q '"labels": \["negative", "positive"\], "confusion": \[\[12, 0\], \[0, 12\]\]' "$work/out" || fail "the counts as JSON"
"$GRAFT" eval -m "$work/model" --adapter "$work/adapter" --data "$work/data.jsonl" --metric rouge >"$work/out" 2>"$work/err" && fail "a classifier answers nothing"

for unused in "--metric perplexity" "--num-beams 2" "--completion-only-loss" "--max-new-tokens 4" "--show 1"; do
    "$GRAFT" eval -m "$work/model" --adapter "$work/adapter" --data "$work/data.jsonl" $unused >"$work/out" 2>"$work/err" && fail "$unused is refused"
    grep -q SEQ_CLS "$work/err" || fail "$unused: the task is named"
done
"$GRAFT" generate -m "$work/model" --adapter "$work/adapter" -p x -n 4 >"$work/out" 2>"$work/err" && fail "-n is refused"
"$GRAFT" sft -m "$work/model" --task-type SEQ_CLS --labels a,b,a --data "$work/data.jsonl" -o "$work/x" >"$work/out" 2>"$work/err" && fail "labels twice"
grep -q '"a" twice' "$work/err" || fail "the label that stands twice is named"

"$GRAFT" generate -m "$work/model" --dtype f32 --adapter "$work/adapter" -p "the film was good and funny" >"$work/out" 2>"$work/err" || fail "classify"
head -1 "$work/out" | grep -q positive || fail "the likeliest label first"
"$GRAFT" generate -m "$work/model" --dtype f32 --adapter "$work/adapter" -p "a very slow plot" -p "great actor" --json >"$work/out" 2>"$work/err" || fail "classify --json"
grep -q '^\[\[{"label": "negative", "score": [0-9.]*}, {"label": "positive"' "$work/out" || fail "labels as JSON"
"$GRAFT" generate -m "$work/model" --dtype f32 --adapter "$work/adapter" --data "$work/data.jsonl" >"$work/out" 2>"$work/err" || fail "classify --data"
[ "$(grep -A1 '^---' "$work/out" | grep -c positive)" -eq 12 ] || fail "twelve are positive"
[ "$(grep -c '^---' "$work/out")" -eq 24 ] || fail "every record is told"
printf '{"text": "a very slow plot"}\n{"text": "a very slow plot", "adapter": "other"}\n{"text": "great actor", "text_pair": "good story"}\n' >"$work/ask.jsonl"
"$GRAFT" generate -m "$work/model" --dtype f32 --adapter one="$work/adapter" --adapter other="$work/new" --data "$work/ask.jsonl" --json \
    >"$work/out" 2>"$work/err" || fail "classify with two adapters"
"$GRAFT" generate -m "$work/model" --dtype f32 --adapter "$work/new" -p "a very slow plot" --json >"$work/alone" 2>"$work/err" || fail "one alone"
grep -qF "$(sed 's/^\[//; s/\]$//' "$work/alone")" "$work/out" || fail "a record has the adapter that it names"
"$GRAFT" generate -m "$work/model" --adapter "$work/adapter" -p x --echo >"$work/out" 2>"$work/err" && fail "--echo is refused"

"$GRAFT" merge -m "$work/model" --adapter "$work/adapter" -o "$work/merged" --outtype f32 >"$work/out" 2>"$work/err" || fail "merge"
"$GRAFT" eval -m "$work/merged" --dtype f32 --data "$work/data.jsonl" >"$work/out" 2>"$work/err" || fail "the merged model"
grep -q 'accuracy *100.00 %' "$work/out" || fail "the merged model's accuracy"

"$GRAFT" generate -m "$work/model" --dtype f32 -p "the film was [MASK]" --top-k 3 >"$work/out" 2>"$work/err" || fail "fill"
[ "$(wc -l <"$work/out")" -eq 3 ] || fail "three words"
"$GRAFT" generate -m "$work/model" --dtype f32 -p "the [MASK] was [MASK]" --json >"$work/out" 2>"$work/err" || fail "fill --json"
grep -q '"token_str": ' "$work/out" || fail "words as JSON"
echo '{"text": "the film was [MASK]"}' | "$GRAFT" generate -m "$work/model" --dtype f32 --data - --top-k 3 >"$work/out" 2>"$work/err" || fail "fill --data"
[ "$(wc -l <"$work/out")" -eq 3 ] || fail "three words of a record"
"$GRAFT" generate -m "$work/model" -p "no mask" >"$work/out" 2>"$work/err" && fail "a text without a mask"
grep -q "no mask token" "$work/err" || fail "what is missing is named"

sed 's/, "label".*/}/; s/, "text_pair.*/}/' "$work/data.jsonl" >"$work/texts.jsonl"
"$GRAFT" sft -m "$work/model" --dtype f32 --data "$work/texts.jsonl" --max-steps 3 -o "$work/mlm" >"$work/out" 2>"$work/err" || fail "training on masks"
"$GRAFT" eval -m "$work/model" --dtype f32 --adapter "$work/mlm" --data "$work/texts.jsonl" >"$work/out" 2>"$work/err" || fail "eval on masks"
grep -q 'token accuracy' "$work/out" || fail "token accuracy"

template='[CLS] [P0..P3] a [P4] [MASK:label yes="good" no="bad"] [SEP]'
printf '{"a": "the film", "label": "yes"}\n{"a": "slow plot", "label": "no"}\n' >"$work/words.jsonl"
"$GRAFT" sft -m "$work/model" --dtype f32 --method p-tuning --prompt-template "$template" --data "$work/words.jsonl" --max-steps 3 \
    -o "$work/words" >"$work/out" 2>"$work/err" || fail "training with a template"
"$GRAFT" eval -m "$work/model" --dtype f32 --adapter "$work/words" --data "$work/words.jsonl" >"$work/out" 2>"$work/err" || fail "eval of words"
grep -q '^  yes  ' "$work/out" || fail "the counts have the labels' names"
"$GRAFT" generate -m "$work/model" --dtype f32 --adapter "$work/words" -p '{"a": "the film"}' >"$work/out" 2>"$work/err" || fail "words"
[ "$(cut -c11- "$work/out" | sort | tr '\n' ' ')" = "no yes " ] || fail "labels for words"

mkdir "$work/t5"
cp "$SOURCE_DIR"/tests/golden/families/t5/{config.json,model.safetensors} "$SOURCE_DIR"/tests/golden/seq2seq/model/tokenizer*.json "$work/t5"
"$GRAFT" plan -m "$work/t5" --task-type SEQ_CLS --data "$work/data.jsonl" >"$work/out" 2>"$work/err" || fail "a plan of a T5 classifier"
"$GRAFT" sft -m "$work/t5" --dtype f32 --task-type SEQ_CLS --data "$work/data.jsonl" --num-train-epochs 12 --learning-rate 1e-2 \
    -o "$work/t5a" >"$work/out" 2>"$work/err" || fail "training a T5 classifier"
"$GRAFT" eval -m "$work/t5" --dtype f32 --adapter "$work/t5a" --data "$work/data.jsonl" >"$work/out" 2>"$work/err" || fail "eval of a T5 classifier"
grep -q 'accuracy *100.00 %' "$work/out" || fail "accuracy of a T5 classifier"
"$GRAFT" merge -m "$work/t5" --adapter "$work/t5a" -o "$work/t5m" --outtype f32 >"$work/out" 2>"$work/err" || fail "merging a T5 classifier"
"$GRAFT" generate -m "$work/t5m" --dtype f32 -p "a very slow plot" >"$work/out" 2>"$work/err" || fail "classifying with a merged T5"
head -1 "$work/out" | grep -q negative || fail "what a merged T5 says"
exit 0
