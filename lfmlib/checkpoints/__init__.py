"""Open a checkpoint from anywhere: find its files, list its tensors and their roles, read values on demand."""
