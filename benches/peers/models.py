"""The networks in PyTorch, with the parameter names of akamaster's checkpoints."""

import torch
import torch.nn.functional as F
from torch import nn

# name: (channels of each stage, blocks of each stage, shortcut, padding of the first convolution)
NETWORKS = {
    "resnet20": ((16, 32, 64), (3, 3, 3), "a", 1),
    "resnet56": ((16, 32, 64), (9, 9, 9), "a", 1),
    "resnet20-wide": ((64, 128, 256, 512), (2, 2, 3, 2), "b", 0),
}


class PadShortcut(nn.Module):
    """Option A: every other pixel, and zero channels on both sides."""

    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def forward(self, x):
        before = self.extra // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.extra - before))


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu2 = nn.ReLU()
        if c_in == c_out:
            self.shortcut = nn.Identity()
        elif shortcut == "a":
            self.shortcut = PadShortcut(c_out - c_in)
        else:
            conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, widths, blocks, shortcut, stem_padding):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, stem_padding, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.stages = []
        c_in = widths[0]
        for i, (width, n) in enumerate(zip(widths, blocks), start=1):
            stage = []
            for j in range(n):
                stride = 2 if i > 1 and j == 0 else 1
                stage.append(Block(c_in, width, stride, shortcut))
                c_in = width
            # Named as in the checkpoints, not as a list's elements.
            setattr(self, f"layer{i}", nn.Sequential(*stage))
            self.stages.append(f"layer{i}")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(c_in, 10)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.linear(torch.flatten(self.pool(x), 1))


def build(name, checkpoint=None, seed=0):
    """The network in evaluation mode: the checkpoint's weights, or random ones."""
    torch.manual_seed(seed)
    net = ResNet(*NETWORKS[name])
    if checkpoint:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        net.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    return net.eval()
