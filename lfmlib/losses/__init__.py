"""What weights are worth, told by a loss: when they are pruned, replaced, moved by noise, or their outliers changed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["outliers", "pruning", "replace", "tolerance", "weights"])
