import pytest

from volpipe.errors import VolumeError
from volpipe.volume.units import UNITS, full_name, micrometres_per


@pytest.mark.parametrize(
    ("unit", "micrometres"),
    [("nanometer", 1e-3), ("micrometer", 1), ("millimeter", 1e3), ("meter", 1e6), ("angstrom", 1e-4), ("inch", 25400)],
)
def test_full_names_are_converted(unit, micrometres):
    assert micrometres_per(unit) == micrometres


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("nm", "nanometer"),
        ("um", "micrometer"),
        ("µm", "micrometer"),
        ("microns", "micrometer"),
        ("mm", "millimeter"),
        ("nanometre", "nanometer"),
        ("Micrometers", "micrometer"),
    ],
)
def test_symbols_are_refused_with_the_name_to_write(unit, name):
    with pytest.raises(VolumeError, match=f'unit "{unit}" is not an OME-NGFF unit; write "{name}"'):
        micrometres_per(unit)


@pytest.mark.parametrize("unit", ["", "pixel", "parrot", "second"])
def test_what_is_no_length_is_refused(unit):
    with pytest.raises(VolumeError, match="is not an OME-NGFF unit; write its full name"):
        micrometres_per(unit)


def test_every_name_is_its_own_full_name():
    assert {full_name(unit) for unit in UNITS} == set(UNITS)


def test_metric_units_step_by_powers_of_ten():
    prefixes = ("yocto", "zepto", "atto", "femto", "pico", "nano", "micro", "milli")
    for power, prefix in enumerate(prefixes):
        assert UNITS[f"{prefix}meter"] == pytest.approx(10.0 ** (3 * power - 18), rel=1e-12)
    for power, prefix in enumerate(("kilo", "mega", "giga", "tera", "peta", "exa", "zetta", "yotta")):
        assert UNITS[f"{prefix}meter"] == pytest.approx(10.0 ** (3 * power + 9), rel=1e-12)


def test_imagej_writes_micro_as_an_escape():
    assert full_name("\\u00B5m") == "micrometer"
