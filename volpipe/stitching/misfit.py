"""Why a network does not fit a stitching mode, as the end of a line to the user; "" where it does."""

from __future__ import annotations

from volpipe.geometry import Footprint


def no_window(footprint: Footprint) -> str:
    """Modes whose tiles may have any length."""
    window = next((axis.window for axis in footprint.axes if axis.window), None)
    return f"takes one length only, {window} voxels; give --stitching windows" if window else ""


def a_window(footprint: Footprint) -> str:
    """The mode whose tiles have one length."""
    any_window = any(axis.window for axis in footprint.axes)
    return "" if any_window else "takes images of many lengths; give --stitching overlap"


def nothing_lost(footprint: Footprint) -> str:
    """Modes for padded networks."""
    lost = max(axis.lost for axis in footprint.axes)
    return f"valid convolutions lose {lost} voxels; give --stitching valid" if lost else ""


def something_lost(footprint: Footprint) -> str:
    """The mode for networks without padding."""
    if not any(axis.lost for axis in footprint.axes):
        return "loses no voxels at its faces; give --stitching overlap"
    between = any((axis.first_output / axis.scale).denominator != 1 for axis in footprint.axes)
    return "its first output lies between two voxels; pad or crop it in the network" if between else ""
