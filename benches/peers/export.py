"""Exports a network to ONNX and quantizes it to 8 bits with every peer's own tool.

Prints how many of the clean test images each file gets right, so that a wrong export is noticed.
"""

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np
import nncf
import openvino as ov
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

import models
import runners

HERE = Path(__file__).resolve().parent
CALIBRATION_IMAGES = 512


class Batches(CalibrationDataReader):
    """Calibration images one by one, as ONNX Runtime asks for them."""

    def __init__(self, images):
        self.batches = iter(np.split(images, len(images)))

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch}


def export_onnx(net, path):
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.onnx.export(
        net,
        (torch.zeros(2, 3, 32, 32),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        # One file is easier to move; the largest network is far below protobuf's 2 GB.
        external_data=False,
        verbose=False,
    )


def quantize_onnxruntime(source, path, images):
    # Folds BatchNorm, which quantize_static expects to be done.
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    quantize_static(
        str(prepared),
        str(path),
        Batches(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    prepared.unlink()


def quantize_openvino(source, path_f32, path_int8, images):
    model = ov.convert_model(str(source))
    # Compression would store the float weights in 16 bits.
    ov.save_model(model, path_f32, compress_to_fp16=False)
    dataset = nncf.Dataset(np.split(images, len(images)))
    ov.save_model(nncf.quantize(model, dataset, subset_size=len(images)), path_int8)


def quantize_pytorch(net, path, images):
    torch.backends.quantized.engine = "x86"
    example = torch.from_numpy(images[:1])
    prepared = prepare_fx(net, get_default_qconfig_mapping("x86"), (example,))
    with torch.inference_mode():
        for batch in torch.from_numpy(images).split(64):
            prepared(batch)
    # A traced module is a file of its own and has no Python between its operations.
    with torch.no_grad():
        torch.jit.trace(convert_fx(prepared), example).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20", choices=models.NETWORKS)
    parser.add_argument("--checkpoint", type=Path, help="a .th file; without it, random weights")
    parser.add_argument("--data", type=Path, required=True, help="folder of data_batch_*.bin, test_batch.bin")
    parser.add_argument("--out", type=Path, default=HERE / "../../runs/peers")
    args = parser.parse_args()

    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    nncf.set_log_level(logging.ERROR)
    args.out.mkdir(parents=True, exist_ok=True)
    file = {peer: runners.file_of(peer, args.network, args.out) for peer in runners.PEERS}

    train, _ = runners.read_cifar(sorted(args.data.glob("data_batch_*.bin")))
    images = train[np.random.default_rng(0).permutation(len(train))[:CALIBRATION_IMAGES]]
    net = models.build(args.network, args.checkpoint)
    if not args.checkpoint:
        # The same random weights for `lb import`.
        args.out.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": net.state_dict()}, args.out / f"{args.network}.th")
    export_onnx(net, file["onnxruntime-f32"])
    quantize_onnxruntime(file["onnxruntime-f32"], file["onnxruntime-int8"], images)
    quantize_openvino(file["onnxruntime-f32"], file["openvino-f32"], file["openvino-int8"], images)
    quantize_pytorch(net, file["pytorch-fx-int8"], images)

    test, labels = runners.read_cifar([args.data / "test_batch.bin"])
    np.save(args.out / "images.npy", test[:256])

    def report(contender, logits, files):
        right = int((logits.argmax(1) == labels).sum())
        size = sum(f.stat().st_size for f in files)
        print(f"{contender:18} {right}/{len(labels)} right, {size:,} bytes", flush=True)

    with torch.inference_mode():
        report("pytorch-f32", net(torch.from_numpy(test)).numpy(), [args.checkpoint] if args.checkpoint else [])
    for peer in runners.PEERS:
        logits = runners.load(peer, args.network, args.out).logits(test)
        # OpenVINO's .xml has its weights in a .bin beside it.
        report(peer, logits, args.out.glob(f"{file[peer].stem}.*"))


if __name__ == "__main__":
    main()
