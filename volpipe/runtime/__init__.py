"""Where a plan runs: in this process, on a local Dask cluster, on GPUs, or on workers that someone else started."""
