"""What startup.py times: loads one peer's file, reads one image of raw pixels (3×32×32 bytes) from
stdin, prints its label. With `none` for the peer, only imports NumPy: Python's own share."""

import sys

import runners

peer, network, directory = sys.argv[1:]
if peer == "none":
    print(0, flush=True)
else:
    runner = runners.load(peer, network, directory)
    pixels = runners.np.frombuffer(sys.stdin.buffer.read(3072), "uint8").reshape(1, 3, 32, 32)
    print(int(runner.logits(runners.normalise(pixels)).argmax()), flush=True)
