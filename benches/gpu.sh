#!/usr/bin/env bash
# Training on a GPU: images/s of PyTorch and of `lb train` on each GPU backend, one after the other.
#
#   benches/gpu.sh DATA [BATCH [LIMIT]]
#
# Each backend has LIMIT seconds [420], of which Burn's choice of kernels may take the first minutes:
# the last lines count. LB is the binary [target/release/lb], PYTHON one with PyTorch [python3; none:
# no PyTorch], BACKENDS what to measure [cuda wgpu].
set -euo pipefail
data=$1 batch=${2:-512} limit=${3:-420}
lb=${LB:-target/release/lb}
python=${PYTHON:-python3}
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

nvidia-smi -L
if [ "$python" != none ]; then
  "$python" "$here/peers/train.py" --device cuda --batch "$batch" --seconds 2
fi
for backend in ${BACKENDS:-cuda wgpu}; do
  log=$work/$backend.log
  echo "lb train --backend $backend --batch $batch, $limit s"
  nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader -l 10 >"$work/gpu.log" &
  watch=$!
  # Stopped as by Ctrl-C, so it fails.
  timeout -k 20 -s INT "$limit" "$lb" train --backend "$backend" --data "$data" --batch "$batch" \
    --lr 0.5 --warmup 4 --held-out 0.02 --epochs 1000 --run "$work/$backend" >"$log" 2>&1 || true
  kill $watch
  if grep -q 'images/s' "$log"; then
    grep 'images/s' "$log" | tail -3
    echo "GPU busy, memory: $(tail -2 "$work/gpu.log" | head -1)"
  else
    tail -5 "$log"
    failed=1
  fi
done
exit $failed
