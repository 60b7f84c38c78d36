#!/usr/bin/env bash
# A disk that fills while a run saves: the run ends with one sentence, the last checkpoint is whole, and with room again the resumed
# run ends with the bytes of an undisturbed one. Needs the right to mount a small tmpfs.
set -u
tmp=$(mktemp -d)
disk=$tmp/disk
mkdir "$disk"
cleanup() { umount "$disk" 2>/dev/null; rm -rf "$tmp"; }
trap cleanup EXIT
mount -t tmpfs -o size=300k none "$disk" 2>/dev/null || { echo "skipped: no right to mount a tmpfs"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }
small=$SOURCE_DIR/tests/golden/train
run=("$GRAFT" sft -m "$small/model" --data "$small/pairs.jsonl" --dtype f32 --max-steps 12 --save-steps 1 -b 4 --lora-r 8 --target-modules all-linear -q)
"${run[@]}" -o "$tmp/whole" --save-total-limit 1 2>/dev/null >&2 || fail "the undisturbed run"
cp "$tmp/whole/adapter_model.safetensors" "$tmp/whole.safetensors"
said=$("${run[@]}" -o "$disk/out" 2>&1 >/dev/null) && fail "12 checkpoints fit a disk of 300 KiB"
[ "$(grep -c . <<<"$said")" -eq 1 ] || fail "expected one sentence: $said"
grep -q "$disk/out.*No space left on device" <<<"$said" || fail "expected the place and the reason: $said"
found=0
for checkpoint in "$disk"/out/checkpoint-*; do
  case $checkpoint in *.tmp) fail "$checkpoint was left" ;; esac
  "$GRAFT" generate -m "$small/model" --adapter "$checkpoint" -p 'red green' -n 2 >/dev/null || fail "$checkpoint does not load"
  found=$((found + 1))
done
[ $found -gt 0 ] || fail "no checkpoint was kept"
# Room for paged state is taken before the first step, so that the checkpoints of before stay and no map writes into nothing.
said=$("${run[@]}" -o "$tmp/whole" --overwrite-output-dir --optim paged_adamw_32bit --lora-r 64 --paged-dir "$disk" 2>&1 >/dev/null) && fail "paging into 300 KiB"
[ "$(grep -c . <<<"$said")" -eq 1 ] || fail "expected one sentence: $said"
grep -q "paged optimiser state: $disk: expected room.*No space left on device" <<<"$said" || fail "expected the place and the reason: $said"
[ -z "$(find "$disk" -name '*scratch*')" ] || fail "the paging file was left"
mount -o remount,size=20m "$disk" || fail "remount"
"${run[@]}" -o "$disk/out" --resume-from-checkpoint latest >/dev/null 2>&1 || fail "the run does not go on"
cmp "$tmp/whole.safetensors" "$disk/out/adapter_model.safetensors" || fail "other bits"
"${run[@]}" -o "$tmp/paged" --optim paged_adamw_32bit --paged-dir "$disk" >/dev/null 2>&1 || fail "paging with room"
cmp "$disk/out/adapter_model.safetensors" "$tmp/paged/adapter_model.safetensors" || fail "other bits of paged state"
# A model is replaced whole or not at all.
"$GRAFT" convert -m "$small/model" -o "$disk/model" -q || fail "writing a model"
cp -r "$disk/model" "$tmp/model"
dd if=/dev/zero of="$disk/filler" bs=1k 2>/dev/null
"$GRAFT" quantize -m "$small/model" --type nf4 -o "$disk/model" -q 2>/dev/null && fail "quantising onto a full disk"
"$GRAFT" quantize -m "$small/model" --type w8a8 -o "$disk/model" -q 2>/dev/null && fail "quantising to w8a8 onto a full disk"
diff -r "$tmp/model" "$disk/model" || fail "half of a model was replaced"
echo "$found checkpoints survived a full disk"
