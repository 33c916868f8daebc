"""What a loss says of weights: pruned, moved by noise, their outliers changed."""
