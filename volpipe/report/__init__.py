"""Pictures of what a run left behind; the home of matplotlib."""

from volpipe.report.pictures import Faces, Output, comparison, comparison_figure

__all__ = ["Faces", "Output", "comparison", "comparison_figure"]
