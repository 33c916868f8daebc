"""Every tensor of a checkpoint measured: one table, wherever the work is done."""
