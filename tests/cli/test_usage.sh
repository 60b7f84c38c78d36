#!/usr/bin/env bash
# Exit statuses, help from the option tables, YAML configuration, nearest names, wrong values. The small model of the goldens is enough.
set -u
failures=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
# expect STATUS PATTERN COMMAND...: the exit status, and a pattern in stdout and stderr together
expect() {
  local status=$1 pattern=$2
  shift 2
  local out got
  out=$("$@" 2>&1 </dev/null)
  got=$?
  [ $got -eq "$status" ] || fail "$*: expected status $status, found $got: $out"
  grep -q -- "$pattern" <<<"$out" || fail "$*: expected \"$pattern\", found: $out"
}

expect 2 'usage: graft COMMAND' "$GRAFT"
expect 0 'usage: graft COMMAND' "$GRAFT" --help
expect 0 '  -t, --threads N                   CPU threads' "$GRAFT" sft --help
expect 0 '      --top-p X                     draw among the fewest tokens that sum to this probability$' "$GRAFT" generate --help
expect 0 'graft [0-9]' "$GRAFT" --version
expect 2 'unknown command generte' "$GRAFT" generte
for command in $("$GRAFT" --commands); do
  expect 0 "usage: graft $command" "$GRAFT" "$command" --help
  expect 0 "usage: graft $command" "$GRAFT" help "$command"
  page=$("$GRAFT" --man "$command")
  [[ $page == .TH* ]] || fail "man page of $command"
  if command -v mandoc >/dev/null; then
    warnings=$(mandoc -T lint -W warning <<<"$page" | grep -v 'missing date') && fail "man page of $command: $warnings"
  fi
done
for shell in bash zsh fish; do [ -n "$("$GRAFT" --completion $shell)" ] || fail "completion of $shell"; done
bash -n <("$GRAFT" --completion bash) || fail "bash completion does not parse"

int8=$SOURCE_DIR/tests/golden/quant/int8
expect 2 'expected one of' "$GRAFT" generate -m "$int8" -p x --activations int4
expect 2 'expected activations int8 too' "$GRAFT" generate -m "$int8" -p x --llm-int8-threshold 6
expect 2 'expected 0 or more' "$GRAFT" generate -m "$int8" -p x --activations int8 --llm-int8-threshold -3
expect 2 'found none' "$GRAFT" generate -m "$SOURCE_DIR/tests/golden/quant/nf4" -p x --activations int8
expect 0 'completion_tokens' "$GRAFT" generate -m "$int8" -p x -n 2 --greedy --json --activations int8 --llm-int8-threshold 0
plain=$SOURCE_DIR/tests/golden/train/model records=$SOURCE_DIR/tests/golden/train/texts.jsonl
expect 0 'input_outlier_ratio.*perplexity_after' "$GRAFT" quantize -m "$plain" --type int8 --calibration-data "$records" -o "$tmp/w8a8" \
  --num-calibration-samples 4 --max-seq-length 32 --report --data "$records" --json
expect 0 'completion_tokens' "$GRAFT" generate -m "$tmp/w8a8" -p x -n 2 --greedy --json
expect 0 'wrote' "$GRAFT" convert -m "$tmp/w8a8" -o "$tmp/w8a8.gguf"
expect 0 '"CHANNEL8"' "$GRAFT" info -m "$tmp/w8a8" --json
expect 2 'expected --calibration-data too' "$GRAFT" quantize -m "$plain" --type w8a8 -o "$tmp/no" --max-seq-length 9
expect 2 'expected type int8 or w8a8, found nf4' "$GRAFT" quantize -m "$plain" --type nf4 --calibration-data "$records" -o "$tmp/no"
expect 2 'expected type w8a8' "$GRAFT" quantize -m "$plain" --type int8 --ignore q_proj -o "$tmp/no"
expect 2 'found q_prj' "$GRAFT" quantize -m "$plain" --type w8a8 --ignore q_prj -o "$tmp/no"
expect 1 'No such file' "$GRAFT" quantize -m "$plain" --type w8a8 --calibration-data "$tmp/none.jsonl" -o "$tmp/no"
[ ! -e "$tmp/no" ] || fail "quantize left a directory after a refusal"
expect 2 'merging computes no activations' "$GRAFT" merge -m "$int8" --adapter x -o y --activations int8
expect 2 'nearest is --learning-rate' "$GRAFT" sft --lerning-rate 1
expect 2 'expected a whole number' "$GRAFT" sft --max-steps many
expect 2 'expected a number' "$GRAFT" sft --learning_rate fast
expect 2 'expected one of' "$GRAFT" sft --method lore
expect 2 'expected a value' "$GRAFT" sft --model
expect 2 'expected a size' "$GRAFT" sft --memory lots
expect 2 'expected --data' "$GRAFT" sft
expect 2 'unexpected word' "$GRAFT" env now
expect 1 'no such file' "$GRAFT" tokenize -m "$tmp/none.gguf"
expect 0 'kernels' "$GRAFT" env
expect 0 '"kernels": "generic"' env GRAFT_CPU=generic "$GRAFT" env --json
expect 2 'generic' env GRAFT_CPU=fastest "$GRAFT" env

cat >"$tmp/a.yaml" <<'Y'
model_name_or_path: /nonexistent/model
training:
  learning_rate: 1.0e-3
lora_target_modules: [q_proj, v_proj]
rank_pattern: {q_proj: 4}
data: /nonexistent/data.jsonl
Y
expect 1 '/nonexistent/model' "$GRAFT" sft --config "$tmp/a.yaml" --output-dir "$tmp/o"
expect 1 '/other/model' "$GRAFT" sft --config "$tmp/a.yaml" --output-dir "$tmp/o" --model /other/model
printf 'learning_rat: 1\n' >"$tmp/b.yaml"
expect 2 "b.yaml:1: unknown option learning_rat; the nearest is --learning-rate" "$GRAFT" sft --config "$tmp/b.yaml"
printf 'max_steps: [1\n' >"$tmp/c.yaml"
expect 2 'c.yaml:' "$GRAFT" sft --config "$tmp/c.yaml"
expect 2 'none.yaml' "$GRAFT" sft --config "$tmp/none.yaml"

# Several jobs: an entry stands over the file's top, flags over both.
printf 'model: %s\ndata: %s\nmax_steps: 1\ntarget_modules: [q_proj, v_proj]\njobs:\n- {name: one, output_dir: %s}\n- {output_dir: %s, target_modules: [o_proj], max_steps: 2}\n' \
  "$SOURCE_DIR/tests/golden/train/model" "$SOURCE_DIR/tests/golden/train/texts.jsonl" "$tmp/j1" "$tmp/j2" >"$tmp/jobs.yaml"
expect 0 '{"name": "one", .*"global_step": 1' "$GRAFT" sft --jobs "$tmp/jobs.yaml" --dtype f32 --json -q
grep -q '"o_proj"' "$tmp/j2/adapter_config.json" && ! grep -q '"q_proj"' "$tmp/j2/adapter_config.json" || fail "jobs: target_modules"
expect 0 '{"name": "job2", .*"global_step": 3' "$GRAFT" sft --jobs "$tmp/jobs.yaml" --max-steps 3 --dtype f32 --json -q --overwrite-output-dir
printf 'jobs:\n- 3\n' >"$tmp/jobs.yaml"
expect 2 'jobs.yaml:2: expected a mapping of options for job 1' "$GRAFT" sft --jobs "$tmp/jobs.yaml"
printf 'model: a\n' >"$tmp/jobs.yaml"
expect 2 'jobs.yaml: expected a list of jobs under "jobs"' "$GRAFT" sft --jobs "$tmp/jobs.yaml"
printf 'jobs: []\n' >"$tmp/jobs.yaml"
expect 2 'jobs.yaml: expected at least one job' "$GRAFT" sft --jobs "$tmp/jobs.yaml"
printf 'data: x\njobs:\n- {name: n, lora_rr: 3}\n' >"$tmp/jobs.yaml"
expect 2 'jobs.yaml:3: unknown option lora_rr' "$GRAFT" sft --jobs "$tmp/jobs.yaml"
expect 2 'expected sft, the command to plan' "$GRAFT" plan generate -m x --data y
if [ -e /dev/full ]; then
  said=$("$GRAFT" env 2>&1 >/dev/full)
  [ $? -eq 1 ] || fail "a full disk under standard output goes unnoticed: $said"
fi
mkdir "$tmp/empty" "$tmp/adapter"
echo '{"peft_type": "LORA"}' >"$tmp/adapter/adapter_config.json"
expect 1 "expected a model's weights" "$GRAFT" generate -m "$tmp/empty" -p x
expect 1 'goes with --adapter' "$GRAFT" generate -m "$tmp/adapter" -p x
small=$SOURCE_DIR/tests/golden/train/model
expect 0 '' "$GRAFT" generate -m "$small" -p 'red green' -n 2
expect 2 'new tokens: expected at least 1' "$GRAFT" generate -m "$small" -p red -n -5
expect 2 'temperature: expected a number above 0' "$GRAFT" generate -m "$small" -p red -n 2 --temperature -1
expect 2 'top_k: expected 0 or more' "$GRAFT" generate -m "$small" -p red -n 2 --top-k -3
head -c 60000 "$small/model.safetensors" >"$tmp/cut.safetensors"
expect 1 'cut.safetensors' "$GRAFT" info "$tmp/cut.safetensors"
expect 0 '"peak_memory"' "$GRAFT" sft -m "$small" --data "$SOURCE_DIR/tests/golden/train/pairs.jsonl" -o "$tmp/trained" --max-steps 1 -q --json
expect 0 '' "$GRAFT" merge -m "$small" --adapter "$tmp/trained" -o "$tmp/merged" -q
expect 2 'expected at most one, found 2' "$GRAFT" generate -m "$small" --adapter "$tmp/trained" --adapter b="$tmp/trained" -p red
expect 0 '' "$GRAFT" merge -m "$small" --adapter a="$tmp/trained:0.7" --adapter b="$tmp/trained:-0.2" --as-adapter -o "$tmp/both" -q
expect 2 'none.*--combination-type\|--combination-type' "$GRAFT" merge -m "$small" --adapter "$tmp/trained" --density 0.5 -o "$tmp/x"
expect 2 'density' "$GRAFT" merge -m "$small" --adapter a="$tmp/trained" --adapter b="$tmp/both" --combination-type ties -o "$tmp/x"
echo '{"adapter": "b", "prompt": "red", "completion": "blue"}' >"$tmp/chosen.jsonl"
expect 0 '"completion_tokens": 2' "$GRAFT" generate -m "$small" --adapter a="$tmp/trained" --adapter b="$tmp/both" --data "$tmp/chosen.jsonl" -n 2 --json
expect 0 '"n_records": 1' "$GRAFT" eval -m "$small" --adapter a="$tmp/trained" --adapter b="$tmp/both" --data "$tmp/chosen.jsonl" -n 2 --json
expect 2 'found "b"' "$GRAFT" generate -m "$small" --adapter a="$tmp/trained" --data "$tmp/chosen.jsonl" -n 2
echo '{"word": "red", "completion": "blue"}' >"$tmp/slots.jsonl"
expect 0 '' "$GRAFT" sft -m "$small" --method p-tuning --prompt-template '[P0] word [P1] [MASK]' --data "$tmp/slots.jsonl" -o "$tmp/slots" --max-steps 1 -q
expect 0 '' "$GRAFT" generate -m "$small" --adapter "$tmp/slots" -p '{"word": "green"}' -n 2
expect 0 '"n_answers": 1' "$GRAFT" eval -m "$small" --adapter "$tmp/slots" --data "$tmp/slots.jsonl" -n 2 --json
expect 1 'byte 10' "$GRAFT" sft -m "$small" --method p-tuning --prompt-template '[P0] word ? [MASK]' --data "$tmp/slots.jsonl" -o "$tmp/x"
expect 2 'no such option' "$GRAFT" sft -m "$small" --prompt-template '[P0] word [MASK]' --data "$tmp/slots.jsonl" -o "$tmp/x"
expect 2 "another directory than that of the base" "$GRAFT" merge -m "$tmp/merged" --adapter "$tmp/trained" -o "$tmp/merged/../merged"
expect 2 "another directory than the model's" "$GRAFT" sft -m "$tmp/merged" --data "$SOURCE_DIR/tests/golden/train/pairs.jsonl" -o "$tmp/merged"
for name in tokenizer.json tokenizer_config.json chat_template.jinja generation_config.json; do
  cmp "$small/$name" "$tmp/merged/$name" || fail "graft merge changed $name"
done

# YAML: what would be left unread or cut short is refused.
config() { printf "$1" >"$tmp/odd.yaml"; expect "$2" "$3" "$GRAFT" sft --config "$tmp/odd.yaml" -m /nonexistent/model --data x -o "$tmp/o"; }
config 'learning_rate: [1e-4, 5e-2]\n' 2 'odd.yaml:1: learning_rate: expected one value, found a list of 2'
config 'report_to: [none]\n' 1 '/nonexistent/model'
config 'target_modules: [q_proj, null]\n' 2 'expected a list of scalars'
config 'lr_scheduler_type: "cosine\\0x"\n' 2 'without NUL'
config 'packing: Null\n' 1 '/nonexistent/model'
config 'seed: 1\n---\nseed: 2\n' 2 'expected one YAML document'
config '' 1 '/nonexistent/model'

# What only prints notices a full disk too; closed streams are no place for a file.
expect 2 'expected bash, zsh or fish' "$GRAFT" --completion tcsh
expect 2 'expected one model' "$GRAFT" info -m "$small" "$small"
if [ -e /dev/full ]; then
  for words in --help --version '--man graft' '--completion bash' 'help sft' 'sft --help'; do
    "$GRAFT" $words >/dev/full 2>/dev/null
    [ $? -eq 1 ] || fail "graft $words: a full disk goes unnoticed"
  done
fi
"$GRAFT" sft -m "$small" --data "$SOURCE_DIR/tests/golden/train/pairs.jsonl" -o "$tmp/closed" --max-steps 1 -q --json >&- 2>/dev/null
[ $? -eq 1 ] || fail "facts that cannot be written go unnoticed"
said=$("$GRAFT" info "$(printf '/none\033[31m')" 2>&1)
[[ $said != *$'\033'* && $said == *'/none?[31m'* ]] || fail "controls of a terminal reach it: $said"

# A template sees none, not undefined, as with transformers.
echo '{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}' >"$tmp/none.jinja"
[ "$(echo '{}' | "$GRAFT" template --chat-template-file "$tmp/none.jinja")" = 'True True False' ] || fail "defaults of a template"
echo '{{ 1 if tools is none }}{{ messages | map(attribute="content") | join(",") }}{{ raise_exception("seen " ~ messages | length ~ messages[0].role) if messages[-1].content == "b" }}' >"$tmp/chat.jinja"
said=$(printf 'a\nb\n' | "$GRAFT" chat -m "$small" --chat-template-file "$tmp/chat.jinja" --system s -n 1 2>&1)
[[ $said == *'seen 4system'* ]] || fail "graft chat: $said"

# Standard output is JSON and nothing else.
json=$("$GRAFT" eval -m "$small" --data "$SOURCE_DIR/tests/golden/train/pairs.jsonl" --limit 2 --show 1 --json -n 2 2>"$tmp/shown")
[[ $json == '{'*'}' && $json != *---* ]] && grep -q 'expected: ' "$tmp/shown" || fail "graft eval --show --json: $json"
# By default what the records allow, from a pipe as well, which is read for the loss and for the answers.
for name in texts pairs; do
  json=$("$GRAFT" eval -m "$small" --data "$SOURCE_DIR/tests/golden/train/$name.jsonl" --limit 2 --json -n 2)
  [[ $json == *perplexity* ]] || fail "graft eval of $name: $json"
  [[ $name == texts || $json == *'"n_answers": 2'* ]] || fail "graft eval of $name: $json"
  piped=$(cat "$SOURCE_DIR/tests/golden/train/$name.jsonl" | "$GRAFT" eval -m "$small" --data - --limit 2 --json -n 2)
  [ "${json%seconds*}" = "${piped%seconds*}" ] || fail "graft eval of a pipe: $piped"
done
expect 1 'expected a prompt or a conversation' "$GRAFT" eval -m "$small" --data "$SOURCE_DIR/tests/golden/train/texts.jsonl" --metric rouge
json=$("$GRAFT" eval -m "$small" --data "$SOURCE_DIR/tests/golden/train/pairs.jsonl" --limit 1 --log-samples --metric f1 --json -n 2)
[[ $json == *'"f1"'* && $json != *rougeL* ]] || fail "graft eval --log-samples: $json"

# Spellings of trl, llama.cpp and argparse; values that begin with a dash.
expect 0 '' "$GRAFT" generate -hf "$small" -p '- red' -predict 2 --device cpu
expect 2 'found --greedy; a value that begins with - is written --prompt=VALUE' "$GRAFT" generate -m "$small" -p --greedy
pairs=$SOURCE_DIR/tests/golden/train/pairs.jsonl
expect 0 '' "$GRAFT" sft -m "$small" --data "$pairs" -o "$tmp/p1" --max_steps 1 --use_peft true --bf16 false -q
grep -q 'compute type | f32' "$tmp/p1/README.md" || fail "--bf16 false"
expect 0 '' "$GRAFT" sft -m "$small" --data "$pairs" -o "$tmp/p2" --max_steps 1 --use_peft false -q
[ -e "$tmp/p2/model.safetensors" ] || fail "--use_peft false"
expect 2 'expected the same of --dtype' "$GRAFT" sft -m "$small" --data "$pairs" -o "$tmp/p3" --bf16 --dtype f32
expect 2 'expected the same of --method' "$GRAFT" sft -m "$small" --data "$pairs" -o "$tmp/p3" --method ia3 --no-use-peft
expect 2 'eval_data: expected eval_strategy steps or epoch' "$GRAFT" sft -m "$small" --data "$pairs" --eval-data "$pairs" -o "$tmp/p3"
# A file's last newline is the end of its line; an answer of graft chat as JSON.
a=$(printf 'red\n' | "$GRAFT" generate -m "$small" -f - -n 3 --json) b=$("$GRAFT" generate -m "$small" -p red -n 3 --json)
[ "${a%%prompt_per*}" = "${b%%prompt_per*}" ] || fail "graft generate --file: $a"
c=$("$GRAFT" generate -m "$small" -p red -n 3 --json --prompt-lookup-num-tokens 4 --max-matching-ngram-size 1)
[ "${c%%prompt_per*}" = "${b%%prompt_per*}" ] || fail "graft generate --prompt-lookup-num-tokens: $c"
expect 2 'beam search does not look tokens up' "$GRAFT" generate -m "$small" -p red --num-beams 2 --prompt-lookup-num-tokens 4
expect 2 'with prompt_lookup_num_tokens, found 3' "$GRAFT" generate -m "$small" -p red --max-matching-ngram-size 3
# Keys and values in less than they are computed in; what would change nothing is refused.
for kept in auto f32 bf16 int8; do
    c=$("$GRAFT" generate -m "$small" -p red -n 3 --json --dtype f32 --kv-cache-dtype $kept) && [[ $c == *'"kv_bytes": '* ]] || fail "--kv-cache-dtype $kept: $c"
done
"$GRAFT" generate -m "$small" -p red -n 3 --dtype bf16 --kv-cache-dtype int8 >"$tmp/kept" || fail "--kv-cache-dtype int8 of bf16"
expect 2 'computed in bf16, found f32' "$GRAFT" generate -m "$small" -p red -n 3 --dtype bf16 --kv-cache-dtype f32
expect 2 'expected auto, f32, bf16 or int8, found q4' "$GRAFT" chat -m "$small" -p hi -n 3 --kv-cache-dtype q4
for nothing in "kv-cache-dtype int8" "temperature 1" ignore-case; do
    expect 2 "--${nothing% *}: expected a metric of answers too" "$GRAFT" eval -m "$small" --data "$SOURCE_DIR/tests/golden/train/pairs.jsonl" --metric perplexity --$nothing
done
json=$("$GRAFT" chat -m "$small" -p hi -n 3 --json)
[[ $json == '{"role": "assistant", "content": "'*'"completion_tokens": 3}' ]] || fail "graft chat --json: $json"
# graft forward writes the file that is named and touches no other.
mkdir "$tmp/f"
python3 - "$tmp/f/o.safetensors" <<'P'
import json, struct, sys
head = json.dumps({"input_ids": {"dtype": "I64", "shape": [1, 3], "data_offsets": [0, 24]}}).encode()
open(sys.argv[1], "wb").write(struct.pack("<Q", len(head)) + head + struct.pack("<3q", 5, 6, 7))
P
cp "$tmp/f/o.safetensors" "$tmp/f/input.copy"
echo '{}' >"$tmp/f/o2.safetensors.index.json"
expect 0 '' "$GRAFT" forward -m "$small" --input "$tmp/f/o.safetensors" --output "$tmp/f/o"
expect 0 '' "$GRAFT" forward -m "$small" --input "$tmp/f/o.safetensors" --output "$tmp/f/o2.safetensors"
cmp "$tmp/f/o" "$tmp/f/o2.safetensors" && cmp "$tmp/f/o.safetensors" "$tmp/f/input.copy" && [ -e "$tmp/f/o2.safetensors.index.json" ] || fail "graft forward --output: $(ls "$tmp/f")"
expect 1 '/nonexistent/o: cannot create' "$GRAFT" forward -m "$small" --input "$tmp/f/o.safetensors" --output /nonexistent/o
# Errors name what is wrong.
said=$(echo '{"messages": }' | "$GRAFT" template -m "$small" 2>&1)
[[ $said == *'standard input: JSON at byte 13'* ]] || fail "graft template: $said"
said=$(echo '[1,' | "$GRAFT" detokenize -m "$small" 2>&1)
[[ $said == *'standard input:1: line: JSON at byte 3'* ]] || fail "graft detokenize: $said"
expect 1 'are longer than max_length' "$GRAFT" sft -m "$small" --data "$pairs" -o "$tmp/p3" --max-length 2
cp -r "$tmp/trained" "$tmp/part"
sed -i 's/lora_A/lora_X/' "$tmp/part/adapter_model.safetensors"
expect 1 'part/adapter_model.safetensors: tensor' "$GRAFT" generate -m "$small" --adapter "$tmp/part" -p red
# A pipe that would be read twice is refused before anything is read; whoever waits for a line's ids gets them.
expect 2 'cannot be read twice' "$GRAFT" eval -m "$small" --data <(cat "$pairs") --limit 1 -n 1
coproc IDS { "$GRAFT" tokenize -m "$small"; }
echo red >&"${IDS[1]}"
read -r -t 20 ids <&"${IDS[0]}" || fail "graft tokenize keeps a line's ids"
eval "exec ${IDS[1]}>&-"
[[ $ids == '['*']' ]] || fail "graft tokenize: $ids"
# What is typed in another alphabet reaches the model.
if command -v python3 >/dev/null; then
  python3 - "$GRAFT" "$small" <<'P' || fail "graft chat drops what is not ASCII"
import os, pty, select, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", LC_ALL="C")
    os.execv(sys.argv[1], ["graft", "chat", "-m", sys.argv[2], "-n", "2"])
seen, sent, end = b"", False, time.time() + 30
while time.time() < end and "é日".encode() not in seen:
    if select.select([fd], [], [], 0.2)[0]:
        try:
            seen += os.read(fd, 4096)
        except OSError:
            break
    if not sent and b"> " in seen:
        os.write(fd, "é日\n".encode())
        sent = True
# A turn that is too long does not end the conversation.
os.write(fd, b"red " * 250 + b"\n")
while time.time() < end and b"/clear forgets the conversation\r\n" not in seen:
    if select.select([fd], [], [], 0.2)[0]:
        seen += os.read(fd, 4096)
os.write(fd, b"\x04")
os.close(fd)
os.waitpid(pid, 0)
sys.exit("é日".encode() not in seen or b"/clear forgets the conversation\r\n" not in seen)
P
fi
# A resumed run names the option of the adapter that differs, and does not mind another path to the same model.
resumed() { "$GRAFT" sft --data "$pairs" -o "$tmp/again" --max-steps 2 --save-steps 1 -q "$@"; }
resumed -m "$small" >/dev/null && rm -r "$tmp/again/checkpoint-2" || fail "a run to resume"
expect 1 ': r: the run was started with 8, found 4' resumed -m "$small" --lora-r 4 --resume-from-checkpoint latest
expect 0 '' resumed -m "$small/../model" --resume-from-checkpoint latest
[ $failures -eq 0 ] && echo "all usage checks hold"
exit $((failures > 0))
