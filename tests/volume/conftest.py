import numpy as np
import pytest


@pytest.fixture(scope="session")
def crop() -> np.ndarray:
    """A ragged random volume that no chunk shape divides."""
    return np.random.default_rng(0).integers(0, 65535, (37, 45, 53), dtype=np.uint16)
