"""One block on one device: the predictor and the price of a network, before it runs."""
