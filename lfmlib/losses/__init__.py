"""What a loss says of weights: pruned, moved by noise, their outliers changed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["outliers", "pruning", "tolerance", "weights"])
