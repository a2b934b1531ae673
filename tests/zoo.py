"""Small networks of others' design, and one of a function, for tests of what is asked of any network."""

import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """Modules by name, and a function of them and the image."""

    def __init__(self, function, /, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, image):
        return self.function(self, image)


class Pix2pix(nn.Module):
    """The U-Net of pix2pix: strided convolutions down and transposed ones up, of even kernels."""

    def __init__(self, depth, width=2):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(width if i else 1, width, 4, 2, 1) for i in range(depth))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width if i == depth - 1 else 2 * width, width if i else 1, 4, 2, 1) for i in range(depth)
        )

    def forward(self, image):
        skips = []
        for down in self.down:
            image = functional.leaky_relu(down(image), 0.2)
            skips.append(image)
        skips.pop()
        for up in reversed(self.up):
            image = up(image)
            image = torch.cat([image, skips.pop()], 1) if skips else image
        return image


def patchgan():
    """8 voxels in, 1 out."""
    layers = [nn.Conv2d(1 if i == 0 else 2, 2, 4, 2 if i < 3 else 1, 1) for i in range(5)]
    return nn.Sequential(*(part for conv in layers for part in (conv, nn.LeakyReLU(0.2))))
