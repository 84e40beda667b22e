"""One peer in a process of its own: reads one request a line, answers one line, both JSON.

    {"batch": 16, "threads": 1, "streams": 1, "seconds": 0.6}  →  images/s

A process each, since the libraries' thread pools and environment variables are the process's own.
Between requests it sleeps in a read.
"""

import json
import os
import statistics
import sys
import time

import runners


def measure(step, finish, batch, seconds):
    """The median rate of ten pieces of the time, so that one pause by the system does not count."""
    piece = seconds / 10
    start = time.perf_counter()
    while time.perf_counter() - start < piece:
        step()
    rates = []
    start = begin = time.perf_counter()
    images = 0
    while begin - start < seconds:
        step()
        images += batch
        now = time.perf_counter()
        if now - begin >= piece:
            rates.append(images / (now - begin))
            begin, images = now, 0
    finish()
    return statistics.median(rates)


def main():
    peer, network, directory = sys.argv[1:]
    # Whatever a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runner = runners.load(peer, network, directory)
    print(json.dumps({"version": runner.version, "kernels": runner.kernels()}), file=answers, flush=True)
    prepared = {}
    for line in sys.stdin:
        request = json.loads(line)
        batch = request["batch"]
        cell = batch, request["threads"], request["streams"]
        # PyTorch's thread count is global, so its cells cannot be kept beside each other.
        if cell not in prepared or isinstance(runner, runners.PyTorch):
            prepared[cell] = runner.prepare(runners.test_images(directory, batch), *cell[1:])
        print(json.dumps(measure(*prepared[cell], batch, request["seconds"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
