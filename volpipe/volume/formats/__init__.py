"""One file per format family: where its arrays lie, what they say of themselves, how a box of them is read.

Each module offers `levels(location) -> list[StoredArray]`, finest first; `volpipe.volume.source` picks among
them.
"""
