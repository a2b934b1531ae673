"""`volpipe coarse SLABS.yaml OUT.yaml`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from volpipe.cli.running import WITHOUT, pictures_option, report_of

if TYPE_CHECKING:
    from volpipe.jobs.coarse import LaidOut


@click.command(short_help="Lay out slabs that lie at any angle or upside down.")
@click.argument("slabs", metavar="SLABS")
@click.argument("output", metavar="OUTPUT")
@pictures_option("Draw each slab on the one above, to look at: OUTPUT with the ending png.")
def command(slabs: str, output: str, pictures: bool) -> None:
    """Find at which angle, where and which way up the slabs of SLABS lie, and write that to OUTPUT for register.

    The first slab with tissue is taken to lie the right way up. Look at what is not sure, which OUTPUT lists at its
    head, and set it right by hand: what lies wrongly may turn all below it. A confidence is that of the least sure
    step on the way from the first slab down; below 0.5 a slab is not sure.

    In OUTPUT a slab that lies upside down is `flipped: true` (half a turn about its y axis sets it right). `start:
    {angle_rad, shift_um: [y, x]}` is about where it lies in slab 0's frame, about the slabs' centres, after that.
    """
    from volpipe.jobs.coarse import check_free, lay_out, picture_of

    picture = picture_of(output)
    report = report_of("laid_out", WITHOUT) if pictures else None
    if report is not None:
        check_free(picture)
    found = lay_out(slabs, output)
    click.echo("slab  turned, deg     shift y, x, um  upside down  confidence")
    for number, one in enumerate(found):
        (y, x), angle = one.start.shift, math.degrees(one.start.angle_rad)
        row = f"{number:4d}  {angle:+11.1f}  {y:+8.1f} {x:+8.1f}  {'yes' if one.flipped else 'no':>11s}"
        click.echo(f"{row}  {_told(one)}")
    if report is not None:
        click.echo(report(slabs, picture, found))
    click.echo(f"{output}: look at it, and give it to volpipe register")


def _told(one: LaidOut) -> str:
    from volpipe.jobs.coarse import SURE

    if not one.shows:
        return "       none: missing or without tissue"
    if one.confidence is None:
        return "      first"
    return f"{one.confidence:11.2f}" + ("" if one.confidence >= SURE else "  not sure: look at it")
