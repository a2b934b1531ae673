"""volpipe: networks over microscopy volumes that do not fit in memory, with the whole-volume result.

    import volpipe

    if __name__ == "__main__":  # local workers import the script again
        job = volpipe.ApplyJob(input="raw.ome.zarr", output="out.ome.zarr", model="boundaries.safetensors")
        volpipe.run(job, volpipe.RunSettings(workers=2, memory_per_worker="4GiB"))

Names are loaded when they are first used, so that `import volpipe` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "volpipe.errors": ("VolpipeError",),
    "volpipe.geometry": ("Affine", "AxisFootprint", "BlockGrid", "Box", "Footprint", "Rigid"),
    "volpipe.jobs.apply": ("ApplyJob",),
    "volpipe.jobs.audit": ("AuditJob",),
    "volpipe.jobs.importing": ("ImportJob",),
    "volpipe.jobs.inverse_problem": ("InverseProblemJob",),
    "volpipe.jobs.pyramid": ("PyramidJob",),
    "volpipe.jobs.register": ("RegisterJob",),
    "volpipe.jobs.self_consistency": ("SelfConsistencyJob",),
    "volpipe.jobs.statistics": ("StatisticsJob",),
    "volpipe.jobs.warp": ("WarpJob",),
    "volpipe.models": ("load_checkpoint", "preset", "save_checkpoint"),
    "volpipe.plan": ("Budget", "Plan", "Receipt"),
    "volpipe.registration.coarse": ("coarse_alignment",),
    "volpipe.registration.estimate": ("PairEstimate",),
    "volpipe.registration.pair": ("register_pair",),
    "volpipe.registration.stack": ("register_slabs", "register_stack"),
    "volpipe.runtime.pipeline": ("load_pipeline",),
    "volpipe.runtime.run": ("run",),
    "volpipe.runtime.settings": ("RunSettings",),
    "volpipe.volume": ("Source", "open_product", "open_source"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'volpipe' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
