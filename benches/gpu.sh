#!/usr/bin/env bash
# Training on a GPU: images/s of PyTorch and of `lb train` on each GPU backend, one after the other.
#
#   benches/gpu.sh DATA [BATCH [SECONDS]]
#
# SECONDS are given to each backend, of which Burn's choice of kernels takes the first minutes; only
# the lines after it count. LB is the binary [target/release/lb], PYTHON one with PyTorch [python3],
# BACKENDS what to measure [cuda wgpu].
set -euo pipefail
data=$1 batch=${2:-512} seconds=${3:-420}
lb=${LB:-target/release/lb}
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nvidia-smi -L || true
"${PYTHON:-python3}" "$here/peers/train.py" --device cuda --batch "$batch" --seconds 2 || echo "no PyTorch"
for backend in ${BACKENDS:-cuda wgpu}; do
  echo "lb train --backend $backend --batch $batch"
  # Stopped as by Ctrl-C: 130.
  timeout -k 20 -s INT "$seconds" "$lb" train --backend "$backend" --data "$data" --batch "$batch" \
    --lr 0.5 --warmup 4 --held-out 0.02 --epochs 1000 --run "$work/$backend" 2>&1 |
    while IFS= read -r line; do echo "$((SECONDS)) s: $line"; done | grep 'images/s' | tail -3 || true
  nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader || true
done
