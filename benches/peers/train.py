"""Training images/s of ResNet-20: PyTorch beside `lb`, in turns.

    ~/peers/bin/python train.py --lb ../../target/release/lb --data JPEG    # on the CPU; --bf16: in bfloat16, too
    python train.py --device cuda --batch 128,512,1024    # PyTorch alone, on a GPU; `lb train` prints its own

On the CPU every round measures PyTorch, channels-last and channels-first, and then `lb train` on one device and on two, whose
figure is its last printed pace. PyTorch's images are in memory, or on the GPU, already; `lb train` loads and augments them. On a GPU products
are in TF32, and `bf16` is PyTorch's autocast.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time

import torch

from models import ResNet, NETWORKS


def pytorch(layout, seconds, batch=128, device="cpu", network="resnet20", bf16=False):
    torch.manual_seed(0)
    net = ResNet(*NETWORKS[network]).to(device, memory_format=layout).train()
    x = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=layout)
    labels = (torch.arange(batch) % 10).to(device)
    # The descent of `lb train`.
    sgd = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    warm_up = 2 if device == "cpu" else 20
    steps, start = -warm_up, 0.0
    while True:
        if steps == 0:
            wait(device)
            start = time.perf_counter()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            loss = torch.nn.functional.cross_entropy(net(x), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        steps += 1
        # A GPU runs behind: it is waited for now and then, not at every step.
        if steps > 0 and (device == "cpu" or steps % 20 == 0):
            wait(device)
            if time.perf_counter() - start > seconds:
                return batch * steps / (time.perf_counter() - start)


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize(device)


def on_gpu(device, batches, seconds, network):
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    for batch in batches:
        for name, layout, bf16 in [
            ("channels-first", torch.contiguous_format, False),
            ("channels-last", torch.channels_last, False),
            ("channels-last bf16", torch.channels_last, True),
        ]:
            rate = pytorch(layout, seconds, batch, device, network, bf16)
            print(f"{network} batch {batch:5} {name:20} {rate:7.0f} images/s", flush=True)


def ours(binary, data, threads, seconds, options=()):
    """The pace that `lb train` prints, loading and augmentation included."""
    command = [binary, "train", "--data", data, "--held-out", "0.02", "--epochs", "100", *options]
    with tempfile.TemporaryDirectory() as run:
        out = subprocess.run(
            ["timeout", "-s", "INT", str(seconds), *command, "--run", run],
            capture_output=True,
            text=True,
            env={**os.environ, "RAYON_NUM_THREADS": str(threads)},
        )
    paces = re.findall(r"([\d.]+) images/s", out.stdout + out.stderr)
    if not paces or out.returncode != 124:  # of `timeout`: it was still running
        raise SystemExit(f"lb train printed no pace:\n{out.stderr}")
    return float(paces[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lb", help="the binary, on the CPU")
    parser.add_argument("--data", help="what `lb` trains on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", default="128", help="on a GPU, e.g. 128,512")
    parser.add_argument("--network", default="resnet20", choices=NETWORKS, help="on a GPU")
    parser.add_argument("--bf16", action="store_true", help="on the CPU: both in bfloat16 as well, which needs AMX")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--lb-seconds", type=float, default=25.0, help="reading images included")
    args = parser.parse_args()
    if args.device != "cpu":
        batches = [int(b) for b in args.batch.split(",")]
        return on_gpu(args.device, batches, args.seconds, args.network)
    if not (args.lb and args.data):
        parser.error("--lb and --data are needed on the CPU")
    torch.set_num_threads(args.threads)
    contenders = {
        "pytorch channels-last": lambda: pytorch(torch.channels_last, args.seconds),
        "pytorch channels-first": lambda: pytorch(torch.contiguous_format, args.seconds),
    }
    options = {"lb": [], "lb --devices 0,1": ["--devices", "0,1"]}
    if args.bf16:
        contenders["pytorch channels-last bf16"] = lambda: pytorch(torch.channels_last, args.seconds, bf16=True)
        options |= {f"{name} --bf16": [*more, "--bf16"] for name, more in options.items()}
    for name, more in options.items():
        contenders[name] = lambda more=more: ours(args.lb, args.data, args.threads, args.lb_seconds, more)
    rows = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, run in contenders.items():
            rows[name].append(run())
    base = rows["pytorch channels-last"]
    for name, values in rows.items():
        ratio = statistics.median(v / b for v, b in zip(values, base))
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{name:26} {statistics.median(values):6.0f} images/s ({spread}), ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
