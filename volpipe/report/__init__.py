"""Pictures of what a run left behind; the home of matplotlib."""

from volpipe.report.pictures import Faces, comparison, comparison_figure

__all__ = ["Faces", "comparison", "comparison_figure"]
