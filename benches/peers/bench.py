"""Images per second of lb and its peers on the same network, in one interleaved run.

In every round every contender runs once in every cell (batch, threads), in shuffled order, so that
what else the machine does hits all alike. Reported are medians over rounds, and the median of the
rounds' ratios to OpenVINO int8.
"""

import argparse
import collections
import csv
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

import runners

HERE = Path(__file__).resolve().parent
BASE = "openvino-int8"
COLUMNS = (
    "date cpu cores contender kernel version network batch threads streams "
    "images_per_s_median min max ratio_to_openvino_int8"
).split()


class Peer:
    """A peer's worker process."""

    def __init__(self, name, network, directory):
        self.name = name
        peer, env = runners.split_isa(name)
        self.several_streams = peer.startswith("openvino")
        self.process = subprocess.Popen(
            [sys.executable, HERE / "worker.py", peer, network, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        about = self.answer()
        self.version = about["version"]
        self.kernels = about["kernels"]
        # The convolutions do the work.
        convolutions = [k.removeprefix("Convolution ") for k in self.kernels if k.startswith("Convolution ")]
        self.kernel = convolutions[0] if convolutions else next(iter(self.kernels))

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: its worker ended; its message is above")
        return json.loads(line)

    def streams(self, threads):
        return sorted({1, threads}) if self.several_streams else [1]

    def run(self, batch, threads, streams, seconds):
        request = {"batch": batch, "threads": threads, "streams": streams, "seconds": seconds}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Lb:
    """`lb bench`, started anew for every cell."""

    def __init__(self, binary, spec):
        name, _, file = spec.partition("=")
        if not file:
            raise SystemExit(f"--lbq {spec}: write NAME=FILE or NAME=FILE@KERNEL")
        head, at, kernel = file.rpartition("@")
        self.file, self.env = (head, {"LB_KERNEL": kernel}) if at and "/" not in kernel else (file, {})
        self.name = f"lb-{name}" + (f"@{kernel}" if self.env else "")
        self.binary = binary
        self.version = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.split()[-1]
        self.kernel = ""

    def streams(self, threads):
        return [1]

    def run(self, batch, threads, streams, seconds):
        command = [self.binary, "bench", self.file, "--json"]
        command += ["--batch", str(batch), "--threads", str(threads), "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **self.env})
        for line in done.stdout.splitlines():
            try:
                cell = json.loads(line)
            except json.JSONDecodeError:
                continue
            # lb also prints rows of the float or simulated network.
            if isinstance(cell, dict) and cell.get("arithmetic") == "integer" and "images_per_s" in cell:
                if (cell.get("batch", batch), cell.get("threads", threads)) == (batch, threads):
                    self.kernel = cell.get("kernel", "")
                    return float(cell["images_per_s"])
        raise SystemExit(f"{self.name}: no figure from {' '.join(command)}\n{done.stdout}{done.stderr}")

    def close(self):
        pass


def cpu_name():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def integers(text):
    return [int(t) for t in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20", help="as given to export.py")
    parser.add_argument("--dir", default=HERE / "../../runs/peers", help="what export.py wrote")
    parser.add_argument("--peers", default=",".join(runners.PEERS), help="NAME or NAME@ISA, comma-separated")
    parser.add_argument("--lb", help="the lb binary")
    parser.add_argument("--lbq", action="append", default=[], metavar="NAME=FILE[@KERNEL]", help="may be repeated")
    parser.add_argument("--batch", type=integers, default=[1, 16, 128])
    parser.add_argument("--threads", type=integers, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.6, help="of each contender in each cell and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=Path, default=HERE / "../records", help="where the CSV goes")
    args = parser.parse_args()
    if args.lbq and not args.lb:
        parser.error("--lbq needs --lb")
    return args


def measure(contenders, args):
    """Images/s of every round: rates[batch, threads][contender name][streams]."""
    order = random.Random(0)
    rates = collections.defaultdict(lambda: collections.defaultdict(lambda: collections.defaultdict(list)))
    for round_ in range(args.rounds):
        for threads in args.threads:
            for batch in args.batch:
                runs = [(c, s) for c in contenders for s in c.streams(threads)]
                order.shuffle(runs)
                for contender, streams in runs:
                    rate = contender.run(batch, threads, streams, args.seconds)
                    rates[batch, threads][contender.name][streams].append(rate)
        print(f"round {round_ + 1}/{args.rounds}", file=sys.stderr)
    return rates


def report(contenders, rates, args):
    """Prints a table and returns the record's rows."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ")
    machine = [cpu_name(), len(os.sched_getaffinity(0))]
    bases = [c.name for c in contenders if c.name.startswith(BASE)]
    head = "".join(f" ÷ {b} |" for b in bases)
    print("\n| threads | batch | contender | kernel | streams | images/s | min–max |" + head)
    print("|--:|--:|---|---|--:|--:|--:|" + "--:|" * len(bases))
    rows = []
    for (batch, threads), cell in rates.items():
        # Where one stream and several were tried, the better one counts.
        best = {name: max(by.items(), key=lambda item: statistics.median(item[1])) for name, by in cell.items()}

        def ratio(name, base):
            pairs = zip(best[name][1], best[base][1])
            return f"{statistics.median(a / b for a, b in pairs):.3f}"

        for c in contenders:
            streams, values = best[c.name]
            if isinstance(c, Lb) and batch == 1:
                streams = threads  # a session a thread: one image is never split
            figures = [round(f(values)) for f in (statistics.median, min, max)]
            median, low, high = figures
            ratios = "".join(f" {ratio(c.name, b)} |" for b in bases)
            cells = [threads, batch, c.name, c.kernel, streams, f"{median:,}", f"{low:,}–{high:,}"]
            print(f"| {' | '.join(map(str, cells))} |{ratios}")
            row = [now, *machine, c.name, c.kernel, c.version, args.network, batch, threads, streams, *figures]
            rows.append([*row, ratio(c.name, BASE) if BASE in best else ""])
    return rows


def main():
    args = arguments()
    contenders = [Peer(name, args.network, args.dir) for name in args.peers.split(",") if name]
    for peer in contenders:
        print(f"{peer.name}: {', '.join(f'{n} {kernel}' for kernel, n in peer.kernels.items())}")
    # Another busy process takes a core from the two-thread cells first of all.
    print(f"load average before the run: {os.getloadavg()[0]:.2f}")
    contenders += [Lb(args.lb, spec) for spec in args.lbq]
    rows = report(contenders, measure(contenders, args), args)
    for contender in contenders:
        contender.close()
    args.records.mkdir(parents=True, exist_ok=True)
    # One file a run: a later run must not overwrite what a table quotes.
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H%M")
    path = args.records / f"{stamp}-{args.network}.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    print(f"\n{path.resolve()}")


if __name__ == "__main__":
    main()
