"""`volpipe coarse SLABS.yaml OUT.yaml`."""

from __future__ import annotations

import math

import click

from volpipe.cli.running import pictures_option, report_of


@click.command(short_help="Lay out slabs that lie at any angle or upside down.")
@click.argument("slabs", metavar="SLABS")
@click.argument("output", metavar="OUTPUT")
@pictures_option("Draw each slab on the one above, to look at: OUTPUT with the ending png.")
def command(slabs: str, output: str, pictures: bool) -> None:
    """Find at which angle, where and which way up the slabs of SLABS lie, and write that to OUTPUT for register.

    Slab 0 is the frame, and is taken to lie the right way up. Look at what is not sure, which OUTPUT lists at its
    head, and set it right by hand: what lies wrongly may turn all below it.

    In OUTPUT a slab that lies upside down is `flipped: true` (half a turn about its y axis sets it right). `start:
    {angle_rad, shift_um: [y, x]}` is about where it lies in slab 0's frame, about the slabs' centres, after that.
    """
    from volpipe.jobs.coarse import SURE, lay_out

    report = report_of("laid_out") if pictures else None
    found = lay_out(slabs, output)
    click.echo("slab  turned, deg     shift y, x, um  upside down  confidence")
    for number, one in enumerate(found):
        (y, x), angle = one.start.shift, math.degrees(one.start.angle_rad)
        row = f"{number:4d}  {angle:+11.1f}  {y:+8.1f} {x:+8.1f}  {'yes' if one.flipped else 'no':>11s}"
        click.echo(f"{row}  {_told(one.confidence, number, SURE)}")
    if report is not None and (picture := report(output, found)) is not None:
        click.echo(picture)
    click.echo(f"{output}: look at it, and give it to volpipe register")


def _told(confidence: float | None, number: int, sure: float) -> str:
    if confidence is None:
        return "      frame" if number == 0 else "       none: as the one above"
    return f"{confidence:11.2f}" + ("" if confidence >= sure else "  not sure: look at it")
