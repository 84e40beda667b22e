#!/usr/bin/env bash
# Accuracy of quantization methods on a test set, a line of CSV each.
#
#   benches/accuracy.sh CHECKPOINT DATA OUT.csv < benches/accuracy/ablation.txt
#
# A line of input: widths, edge bits, method, seed, further options of `lb calibrate`, or, for the
# methods `finetune` (what `brecq+kl` made) and `gptq+finetune`, of `lb finetune` and, behind ` -- `, of the
# `lb calibrate` before. Lines that OUT.csv has already are skipped, so an interrupted run goes on. Settings were never chosen on this test set. LB is the binary [target/release/lb], KEEP
# a folder for packed files and fine-tuning runs [a temporary one].
set -euo pipefail
# A command that fails in $(...) ends the script, and leaves no line.
shopt -s inherit_errexit
model=$1 data=$2 out=$3
lb=${LB:-target/release/lb}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
keep=${KEEP:-$work}

field() { sed -n "s/.*\"$1\":\([-0-9.e]*\).*/\1/p" <<<"$2" | head -1; }

percent() { awk -v x="$1" 'BEGIN { printf "%.2f", 100 * x }'; }

metrics() { # of a file, in %: accuracy,precision,recall,f1
  local json all=()
  json=$("$lb" eval "$1" --data "$data" --json | sed 's/"per_class".*//')
  for name in accuracy precision recall f1; do all+=("$(percent "$(field "$name" "$json")")"); done
  (IFS=,; echo "${all[*]}")
}

measured() { # runs a command; its output, and at the end its seconds and peak memory in MiB
  local start=$SECONDS pid peak=0 now
  "$@" </dev/null &
  pid=$!
  while kill -0 $pid 2>/dev/null; do
    now=$(sed -n 's/VmHWM:[[:space:]]*\([0-9]*\) kB/\1/p' /proc/$pid/status 2>/dev/null || true)
    peak=${now:-$peak}
    sleep 0.2
  done
  wait $pid
  echo "\"took\":$((SECONDS - start)),\"peak\":$((peak / 1024))"
}

mkdir -p "$(dirname "$out")"
header=network,widths,edge,method,seed,options,accuracy,precision,recall,f1,drop,kl_calibration,flips_calibration,seconds,peak_mib,bytes
[ -e "$out" ] || echo "$header" >"$out"
[ "$(head -1 "$out")" = "$header" ] || { echo "$out: has other columns; name another file" >&2; exit 1; }
float=$(metrics "$model")
network=$(basename "$(dirname "$model")")
grep -q "^$network,float," "$out" || echo "$network,float,,,,,$float,0.00,,,,,$(stat -c %s "$model")" >>"$out"
# All of it before anything is done: the list may be edited meanwhile.
mapfile -t lines
for line in "${lines[@]}"; do
  read -r widths edge method seed options <<<"$line"
  case $widths in '' | '#'*) continue ;; esac
  key="$network,$widths,$edge,$method,$seed,$options,"
  if grep -qF "$key" "$out"; then continue; fi
  # `finetune` goes on from brecq+kl, which is kept for it.
  calibrated=$method more=$options tuned=${options%%-- *} json= finetuned=
  case $method in
    finetune) calibrated=brecq+kl finetuned=yes ;;
    gptq+finetune) calibrated=gptq finetuned=yes ;;
  esac
  if [ "$finetuned" ]; then
    case $options in *'-- '*) more=${options#*-- } ;; *) more= ;; esac
  fi
  kept=$keep/$network-$widths-$edge-$calibrated-$seed${more//[ \/]/}
  if [ -z "$finetuned" ] || ! ls "$kept"/*.lbq >/dev/null 2>&1; then
    rm -rf "$kept"
    # Options may name other images to calibrate on.
    images=(--data "$data")
    if [[ $more == *--data* ]]; then images=(); fi
    # shellcheck disable=SC2086
    json=$(measured "$lb" calibrate --model "$model" "${images[@]}" --bits "$widths" --edge-bits "$edge" \
      --method "$calibrated" --seed "$seed" --out "$kept" --json $more)
  fi
  file=$(ls "$kept"/*.lbq)
  if [ "$finetuned" ]; then
    run=$keep/$network-$widths-$edge-$method-$seed${options// /}
    again=
    if [ -e "$run/state.safetensors" ]; then again=--resume; fi
    # shellcheck disable=SC2086
    json=$(measured "$lb" finetune "$file" --model "$model" --data "$data" --seed "$seed" --run "$run" $again $tuned)
    file=$run/best.lbq
  fi
  got=$(metrics "$file")
  drop=$(awk -v f="${float%%,*}" -v q="${got%%,*}" 'BEGIN { printf "%.2f", f - q }')
  line="$key$got,$drop,$(field kl "$json"),$(field flips "$json"),$(field took "$json"),$(field peak "$json"),$(stat -c %s "$file")"
  echo "$line" >>"$out"
  echo "$line"
done
