"""What weights are worth, told by a loss: when they are pruned, moved by noise, or their outliers changed."""
