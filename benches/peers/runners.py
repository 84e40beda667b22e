"""How each peer loads its file and runs it, and the images they run on.

Imports a peer's library only when that peer is asked for.
"""

import collections
import os
import warnings
from pathlib import Path

import numpy as np

# ImageNet's, of pixels scaled to 0..1: what the checkpoints were trained with.
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)

# Work of these kinds of OpenVINO nodes is negligible, or done once at compilation.
NOT_KERNELS = {"Const", "Input", "Output", "Reshape"}


class OpenVino:
    suffix = ".xml"

    def __init__(self, path):
        import openvino

        self.ov = openvino
        self.version = openvino.__version__.split("-")[0]
        self.core = openvino.Core()
        self.model = self.core.read_model(path)

    def compile(self, batch, threads, streams):
        self.model.reshape([batch, 3, 32, 32])
        # Without the hint OpenVINO computes a float network in bf16 where the CPU can, and what is not
        # quantized in an int8 one. For int8 the hint cost nothing beyond noise in any cell tried; with
        # ONEDNN_MAX_CPU_ISA below the CPU's own it is needed: OpenVINO picks bf16 from the CPU, oneDNN
        # then lacks kernels for it, and reference code makes the network 3.6 times slower.
        config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams, "INFERENCE_PRECISION_HINT": "f32"}
        return self.core.compile_model(self.model, "CPU", config)

    def prepare(self, images, threads, streams):
        compiled = self.compile(len(images), threads, streams)
        if streams == 1:
            request = compiled.create_infer_request()
            request.set_input_tensor(self.ov.Tensor(images))
            return lambda: request.infer(share_outputs=True), lambda: None
        # Twice as many requests as streams, so that a stream need not wait for Python.
        queue = self.ov.AsyncInferQueue(compiled, 2 * streams)
        for request in queue:
            request.set_input_tensor(self.ov.Tensor(images.copy()))
        return queue.start_async, queue.wait_all

    def logits(self, images):
        return self.compile(len(images), 1, 1)(images)[0]

    def kernels(self):
        """How many nodes run on each of OpenVINO's implementations, as it reports them itself."""
        count = collections.Counter()
        for node in self.compile(16, 1, 1).get_runtime_model().get_ops():
            info = {k: str(v.astype(str)) for k, v in node.get_rt_info().items() if k in ("layerType", "primitiveType")}
            if info["layerType"] not in NOT_KERNELS:
                count[f"{info['layerType']} {info['primitiveType']}"] += 1
        return dict(count.most_common())


class OnnxRuntime:
    suffix = ".onnx"

    def __init__(self, path):
        import onnxruntime

        self.ort = onnxruntime
        self.version = onnxruntime.__version__
        self.path = str(path)

    def session(self, threads):
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = threads
        return self.ort.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def prepare(self, images, threads, streams):
        session = self.session(threads)
        return lambda: session.run(None, {"input": images}), lambda: None

    def logits(self, images):
        return self.session(1).run(None, {"input": images})[0]

    def kernels(self):
        return {"mlas": 1}


class PyTorch:
    suffix = ".pt"

    def __init__(self, path):
        # That TorchScript and eager quantization are deprecated is no news at every start.
        warnings.filterwarnings("ignore", category=FutureWarning)
        os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
        import torch

        self.torch = torch
        self.version = torch.__version__
        torch.backends.quantized.engine = "x86"
        self.module = torch.jit.freeze(torch.jit.load(str(path)).eval())

    def prepare(self, images, threads, streams):
        # Channels last is what its integer kernels want.
        batch = self.torch.from_numpy(images).contiguous(memory_format=self.torch.channels_last)

        def step():
            with self.torch.inference_mode():
                self.module(batch)

        self.torch.set_num_threads(threads)
        return step, lambda: None

    def logits(self, images):
        self.torch.set_num_threads(1)
        with self.torch.inference_mode():
            return self.module(self.torch.from_numpy(images)).numpy()

    def kernels(self):
        return {f"quantized engine {self.torch.backends.quantized.engine}": 1}


FAMILIES = {"openvino": OpenVino, "onnxruntime": OnnxRuntime, "pytorch": PyTorch}
PEERS = ["openvino-int8", "openvino-f32", "onnxruntime-int8", "onnxruntime-f32", "pytorch-fx-int8"]


def family(peer):
    return FAMILIES[peer.split("-")[0]]


def file_of(peer, network, directory):
    """Where export.py writes a peer's file."""
    return Path(directory) / f"{network}-{peer}{family(peer).suffix}"


def load(peer, network, directory):
    return family(peer)(file_of(peer, network, directory))


def split_isa(contender):
    """`openvino-int8@AVX2` → `("openvino-int8", {"ONEDNN_MAX_CPU_ISA": "AVX2"})`."""
    peer, _, isa = contender.partition("@")
    return peer, {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}


def normalise(pixels):
    return (pixels.astype(np.float32) / 255 - MEAN) / STD


def read_cifar(files):
    """Normalised images [N, 3, 32, 32] and labels of official CIFAR-10 binary files."""
    records = np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073) for f in files])
    return normalise(records[:, 1:].reshape(-1, 3, 32, 32)), records[:, 0].astype(np.int64)


def test_images(directory, batch):
    """`batch` normalised images; export.py left 256, which repeat."""
    images = np.load(Path(directory) / "images.npy")
    return np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
