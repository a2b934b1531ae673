"""Units of length: the full names that OME-NGFF allows, and the symbols that other formats write.

Convention: lengths are carried in micrometres everywhere behind this module.
Source: OME-NGFF 0.5, "axes" metadata: unit strings are UDUNITS-2 names such as "nanometer", never "nm".
"""

from __future__ import annotations

from volpipe.errors import VolumeError

UNITS: dict[str, float] = {
    "angstrom": 1e-4,
    "attometer": 1e-12,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "exameter": 1e24,
    "femtometer": 1e-9,
    "foot": 304_800.0,
    "gigameter": 1e15,
    "hectometer": 1e8,
    "inch": 25_400.0,
    "kilometer": 1e9,
    "megameter": 1e12,
    "meter": 1e6,
    "micrometer": 1.0,
    "mile": 1_609_344_000.0,
    "millimeter": 1e3,
    "nanometer": 1e-3,
    "parsec": 3.085677581491367e22,
    "petameter": 1e21,
    "picometer": 1e-6,
    "terameter": 1e18,
    "yard": 914_400.0,
    "yoctometer": 1e-18,
    "yottameter": 1e30,
    "zeptometer": 1e-15,
    "zettameter": 1e27,
}
"""Micrometres per unit, by the name that OME-NGFF allows."""

_SYMBOLS = {
    "pm": "picometer",
    "Å": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "km": "kilometer",
    "in": "inch",
    "ft": "foot",
}


def micrometres_per(unit: str) -> float:
    """How many micrometres one `unit` has.

    Args:
        unit: the full name, as "nanometer".

    Raises:
        VolumeError: `unit` is not a length unit of OME-NGFF; the message gives the name to write.
    """
    if unit in UNITS:
        return UNITS[unit]
    name = full_name(unit)
    advice = f'write "{name}"' if name else "write its full name, as nanometer, micrometer or millimeter"
    raise VolumeError(f'unit "{unit}" is not an OME-NGFF unit; {advice}')


def full_name(unit: str) -> str | None:
    """The OME-NGFF name of a unit, however spelled ("nm", "µm", "microns", "nanometres"); None if unknown."""
    text = unit.strip().replace("\\u00B5", "µ").replace("μ", "µ").replace("\u212b", "Å")
    singular = text[:-1] if text.endswith("s") else text
    for spelling in (text, singular, singular.lower().replace("metre", "meter")):
        if spelling in UNITS:
            return spelling
        if spelling in _SYMBOLS:
            return _SYMBOLS[spelling]
    return None
