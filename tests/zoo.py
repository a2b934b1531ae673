"""Small networks, ours and of others' design, with the footprints computed by hand, for tests that ask this of any."""

import torch
from torch import nn
from torch.nn import functional

from volpipe.geometry import Box
from volpipe.models.presets import preset
from volpipe.stitching import Tile


def on_all(assembly, network, images):
    """What an assembly makes of a network and whole images (n, c, z, y, x), whatever size the network gives."""
    box = Box.from_shape(images.shape[2:])
    return assembly.run(lambda images, tile, axis: network(images), images, Tile(box, box))


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


def unet(levels, **changes):
    return preset("unet2d_l4", width=2, levels=levels, **changes)


def valid(levels, **changes):
    return preset("unet2d_l4_valid", width=2, levels=levels, **changes)


def resnet(blocks, upsampling):
    return preset("resnet6_2d", width=2, blocks=blocks, upsampling=upsampling)


# computed by hand, the same in 2D and 3D: period, need before and after, size class, lost; halo before and after
FOOTPRINTS = {
    "U-Net L3": (unet(3), (4, 22, 22, 0, 0), (24, 24)),
    "U-Net L4": (unet(4), (8, 46, 46, 0, 0), (48, 48)),
    "U-Net L5": (unet(5), (16, 94, 94, 0, 0), (96, 96)),
    "U-Net L6": (unet(6), (32, 190, 190, 0, 0), (192, 192)),
    "U-Net L3 nearest": (unet(3, upsampling="nearest"), (4, 22, 22, 0, 0), (24, 24)),
    "U-Net L4 nearest": (unet(4, upsampling="nearest"), (8, 46, 46, 0, 0), (48, 48)),
    "U-Net L5 nearest": (unet(5, upsampling="nearest"), (16, 94, 94, 0, 0), (96, 96)),
    "U-Net L6 nearest": (unet(6, upsampling="nearest"), (32, 190, 190, 0, 0), (192, 192)),
    "U-Net L3 bilinear": (unet(3, upsampling="bilinear"), (4, 26, 26, 0, 0), (28, 28)),
    "U-Net L4 bilinear": (unet(4, upsampling="bilinear"), (8, 54, 54, 0, 0), (56, 56)),
    "U-Net L5 bilinear": (unet(5, upsampling="bilinear"), (16, 110, 110, 0, 0), (112, 112)),
    "U-Net L3 valid": (valid(3), (4, 0, 40, 0, 40), (0, 40)),
    "U-Net L4 valid": (valid(4), (8, 0, 92, 4, 88), (0, 96)),
    "U-Net L5 valid": (valid(5), (16, 0, 188, 12, 184), (0, 192)),
    "U-Net L3 valid bilinear": (valid(3, upsampling="bilinear"), (4, 4, 44, 0, 40), (4, 44)),
    "U-Net L4 valid bilinear": (valid(4, upsampling="bilinear"), (8, 8, 100, 4, 88), (8, 104)),
    "U-Net L5 valid bilinear": (valid(5, upsampling="bilinear"), (16, 16, 204, 12, 184), (16, 208)),
    "ResNet-6": (resnet(6, "transposed"), (4, 58, 59, 0, 0), (60, 60)),
    "ResNet-9": (resnet(9, "transposed"), (4, 82, 83, 0, 0), (84, 84)),
    "ResNet-6 nearest": (resnet(6, "nearest"), (4, 62, 59, 0, 0), (64, 60)),
    "ResNet-9 nearest": (resnet(9, "nearest"), (4, 86, 83, 0, 0), (88, 84)),
    "ResNet-6 bilinear": (resnet(6, "bilinear"), (4, 66, 63, 0, 0), (68, 64)),
    "ResNet-9 bilinear": (resnet(9, "bilinear"), (4, 90, 87, 0, 0), (92, 88)),
    "U-Net L4 strided": (unet(4, downsampling="strided"), (8, 53, 46, 0, 0), (56, 48)),
    "U-Net L3 pooled by 3": (unet(3, pooling=((3, 3), (3, 3))), (9, 35, 35, 0, 0), (36, 36)),
    "U-Net L3 3D": (preset("unet3d_l3", width=2), (4, 22, 22, 0, 0), (24, 24)),
}
