#!/usr/bin/env bash
# Accuracy of quantization methods on a test set, a line of CSV each.
#
#   benches/accuracy.sh CHECKPOINT DATA OUT.csv < benches/accuracy/ablation.txt
#
# A line of input: widths, edge bits, method, seed, further options of `lb calibrate`. Lines that
# OUT.csv has already are skipped, so an interrupted run goes on. Settings were never chosen on this
# test set. LB is the binary [target/release/lb].
set -euo pipefail
model=$1 data=$2 out=$3
lb=${LB:-target/release/lb}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

field() { sed -n "s/.*\"$1\":\([-0-9.e]*\).*/\1/p" <<<"$2" | head -1; }

accuracy() { # of a file, in %
  local json
  json=$("$lb" eval "$1" --data "$data" --json)
  awk -v a="$(field accuracy "$json")" 'BEGIN { printf "%.2f", 100 * a }'
}

mkdir -p "$(dirname "$out")"
[ -e "$out" ] || echo "network,widths,edge,method,seed,options,accuracy,drop,kl_calibration,flips_calibration,seconds,peak_mib,bytes" >"$out"
float=$(accuracy "$model")
network=$(basename "$(dirname "$model")")
# All of it before anything is done: the list may be edited meanwhile.
mapfile -t lines
for line in "${lines[@]}"; do
  read -r widths edge method seed options <<<"$line"
  case $widths in '' | '#'*) continue ;; esac
  key="$network,$widths,$edge,$method,$seed,$options,"
  if grep -qF "$key" "$out"; then continue; fi
  # shellcheck disable=SC2086
  json=$("$lb" calibrate --model "$model" --data "$data" --bits "$widths" --edge-bits "$edge" \
    --method "$method" --seed "$seed" --out "$work" --json $options </dev/null &
    pid=$!
    peak=0
    while kill -0 $pid 2>/dev/null; do
      now=$(sed -n 's/VmHWM:[[:space:]]*\([0-9]*\) kB/\1/p' /proc/$pid/status 2>/dev/null || true)
      peak=${now:-$peak}
      sleep 0.2
    done
    wait $pid
    echo "\"peak\":$((peak / 1024))")
  file=$(sed -n 's/.*"file":"\([^"]*\)".*/\1/p' <<<"$json" | head -1)
  right=$(accuracy "$file")
  drop=$(awk -v f="$float" -v q="$right" 'BEGIN { printf "%.2f", f - q }')
  line="$key$right,$drop,$(field kl "$json"),$(field flips "$json"),$(sed -n 's/.*"seconds":\([0-9.]*\),"target".*/\1/p' <<<"$json"),$(field peak "$json"),$(stat -c %s "$file")"
  echo "$line" >>"$out"
  echo "$line"
done
