"""One tensor, the order of its entries ignored: its exact distribution, and how far that is from a Gaussian."""
