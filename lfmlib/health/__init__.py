"""Whether a checkpoint is whole: layers that are damaged, untrained or out of order."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["order", "planted", "states"])
