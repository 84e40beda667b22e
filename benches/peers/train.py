"""Training images/s of ResNet-20: PyTorch beside `cargo bench --bench train`, in turns.

    ~/peers/bin/python train.py --bench BINARY     # target/release/deps/train-*, built by cargo bench --no-run

Every round measures PyTorch, channels-last and channels-first, and then the criterion benchmark's step.
"""

import argparse
import re
import statistics
import subprocess
import time

import torch

from models import ResNet, NETWORKS


def pytorch(layout, threads, seconds, batch=128):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = ResNet(*NETWORKS["resnet20"]).to(memory_format=layout).train()
    x = torch.randn(batch, 3, 32, 32).to(memory_format=layout)
    labels = torch.arange(batch) % 10
    sgd = torch.optim.SGD(net.parameters(), lr=1e-3)
    steps, start = -2, 0.0
    while True:
        if steps == 0:
            start = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        steps += 1
        if steps > 0 and time.perf_counter() - start > seconds:
            return batch * steps / (time.perf_counter() - start)


def ours(binary, threads):
    out = subprocess.run(
        [binary, "--bench", "step"],
        capture_output=True,
        text=True,
        check=True,
        env={"RAYON_NUM_THREADS": str(threads), "PATH": "/usr/bin:/bin"},
    ).stdout
    middle, unit = re.search(r"thrpt:.*elem/s\s+([\d.]+) +(\w?)elem/s\s+[\d.]+ +\w?elem/s\]", out).groups()
    return float(middle) * {"": 1.0, "K": 1e3}[unit]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    rows = {"pytorch channels-last": [], "pytorch channels-first": [], "lb": []}
    for _ in range(args.rounds):
        for name, layout in [
            ("pytorch channels-last", torch.channels_last),
            ("pytorch channels-first", torch.contiguous_format),
        ]:
            rows[name].append(pytorch(layout, args.threads, args.seconds))
        rows["lb"].append(ours(args.bench, args.threads))
    base = rows["pytorch channels-last"]
    for name, values in rows.items():
        ratio = statistics.median(v / b for v, b in zip(values, base))
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{name:24} {statistics.median(values):6.0f} images/s ({spread}), ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
