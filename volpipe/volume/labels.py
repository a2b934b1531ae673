"""Label images of a product: volumes of the same voxels inside its group, which viewers lay over it.

    OUT.ome.zarr/labels/zarr.json        {"ome": {"labels": ["known"]}}
    OUT.ome.zarr/labels/known/0          as the product's level 0, uint8

Source: OME-NGFF 0.5, section "labels". They go when the product is made anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from volpipe.volume.folder import absolute, writing
from volpipe.volume.groups import make_group, open_group
from volpipe.volume.layout import Layout
from volpipe.volume.multiscale import VERSION
from volpipe.volume.product import Product, create_product


def labels_of(location: str, name: str, layout: Layout) -> Product:
    """The label image of a product, which need not exist yet."""
    return Product(f"{absolute(location)}/labels/{name}", replace(layout, channels=1, dtype=np.dtype(np.uint8)))


def create_labels(location: str, name: str, layout: Layout) -> Product:
    """Make the one label image of a product that was just made.

    Raises:
        WriteError: the disk is full, or the store refuses.
    """
    named = labels_of(location, name, layout)
    with writing(location):
        make_group(f"{absolute(location)}/labels", {"ome": {"version": VERSION, "labels": [name]}})
    made = create_product(named.location, named.layout, {})
    group = open_group(made.location, read_only=False)
    ome: Any = group.attrs["ome"]
    with writing(location):
        group.update_attributes({"ome": {**ome, "image-label": {"source": {"image": "../../"}}}})
    return made
