"""From the start of a process to its first label, and the most memory it held."""

import argparse
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = "none,openvino-int8,onnxruntime-int8,pytorch-fx-int8"


def start(command, image):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(image)
    process.stdin.close()
    return process


def label_of(command, output, status):
    if status or not output.strip():
        raise SystemExit(f"{command}: no label")
    return output.split()[-1].decode()


def time_to_label(command, image):
    begin = time.perf_counter()
    process = start(command, image)
    line = process.stdout.readline()
    seconds = time.perf_counter() - begin
    return seconds, label_of(command, line + process.stdout.read(), process.wait())


def peak_kib(command, image):
    """Largest resident memory, polled until the process is gone; not in the timed run.

    Not from wait4(): its figure begins with this Python's memory, which a small program never reaches.
    """
    process = start(command, image)
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
    return peak


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--dir", default=HERE / "../../runs/peers", help="what export.py wrote")
    parser.add_argument("--peers", default=PEERS, help="`none` is Python with NumPy alone")
    parser.add_argument("--engine", nargs=2, metavar=("BINARY", "LBQ"), help="called as BINARY LBQ, raw pixels on stdin")
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
        peak = max(peak_kib(commands[name], image) for _ in range(3)) / 1024
        print(f"| {name} | {ms[0]:.1f} | {ms[1]:.1f}–{ms[2]:.1f} | {peak:.1f} | {labels[name]} |")


if __name__ == "__main__":
    main()
