"""Whether a checkpoint is whole: layers that are damaged, untrained or out of order."""
