"""From the start of a process to its first label, and the most memory it held."""

import argparse
import fcntl
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = "none,openvino-int8,onnxruntime-int8,pytorch-fx-int8"


def start(command, image, stdout):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout)
    process.stdin.write(image)
    process.stdin.close()
    return process


def time_to_label(command, image):
    begin = time.perf_counter()
    process = start(command, image, subprocess.PIPE)
    label = process.stdout.readline().decode().strip()
    seconds = time.perf_counter() - begin
    if process.wait() or not label:
        raise SystemExit(f"{command}: no label")
    return seconds, label


def peak_kib(command, image, wait):
    """The largest resident memory, read while the process hangs on printing its label into a full pipe.

    wait4() would count this Python's memory, which the child begins with and a small program never reaches.
    """
    out, into = os.pipe()
    os.write(into, bytes(fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)))
    process = start(command, image, into)
    time.sleep(wait)
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.kill()
    process.wait()
    os.close(into)
    os.close(out)
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--dir", default=HERE / "../../runs/peers", help="what export.py wrote")
    parser.add_argument("--peers", default=PEERS, help="`none` is Python with NumPy alone")
    parser.add_argument("--engine", nargs=2, metavar=("BINARY", "LBQ"), help="run as BINARY LBQ")
    parser.add_argument("--image", required=True, help="an official CIFAR-10 binary file; its first image is taken")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    with open(args.image, "rb") as file:
        image = file.read(3073)[1:]
    script = [sys.executable, HERE / "first_label.py"]
    commands = {peer: [*script, peer, args.network, args.dir] for peer in args.peers.split(",") if peer}
    if args.engine:
        commands["lb-engine"] = args.engine

    seconds = {name: [] for name in commands}
    labels = {}
    # One round more than asked for: the first one reads the files from disk.
    for round_ in range(args.rounds + 1):
        for name in random.sample(list(commands), len(commands)):
            spent, labels[name] = time_to_label(commands[name], image)
            if round_:
                seconds[name].append(spent)
    print("| contender | first label, ms | min–max | peak memory, MiB | label |\n|---|--:|--:|--:|--:|")
    for name, values in seconds.items():
        ms = [1000 * f(values) for f in (statistics.median, min, max)]
        peak = peak_kib(commands[name], image, wait=0.5 + 3 * max(values)) / 1024
        print(f"| {name} | {ms[0]:.1f} | {ms[1]:.1f}–{ms[2]:.1f} | {peak:.1f} | {labels[name]} |")


if __name__ == "__main__":
    main()
