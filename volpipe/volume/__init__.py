"""Volumes: read where they are, written as OME-Zarr 0.5; the home of zarr, tifffile, h5py, tensorstore and obstore.

Names are loaded when they are first used: `volpipe --help` waits for no storage library. `validate` and `describe`
are taken from `volpipe.volume.validate`: a function named as its module cannot stand here too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volpipe.volume.apart import check_apart, check_place
    from volpipe.volume.layout import Layout
    from volpipe.volume.mask import Mask
    from volpipe.volume.product import Product, create_product, open_product
    from volpipe.volume.source import LevelInfo, Source, levels_of, open_source
    from volpipe.volume.turned import TurnedOver, turned_layers

_HOMES = {
    "volpipe.volume.apart": ("check_apart", "check_place"),
    "volpipe.volume.layout": ("Layout",),
    "volpipe.volume.mask": ("Mask",),
    "volpipe.volume.product": ("Product", "create_product", "open_product"),
    "volpipe.volume.source": ("LevelInfo", "Source", "levels_of", "open_source"),
    "volpipe.volume.turned": ("TurnedOver", "turned_layers"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "Layout",
    "LevelInfo",
    "Mask",
    "Product",
    "Source",
    "TurnedOver",
    "check_apart",
    "check_place",
    "create_product",
    "levels_of",
    "open_product",
    "open_source",
    "turned_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
