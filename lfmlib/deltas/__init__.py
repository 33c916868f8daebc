"""W beside W₀: what fine-tuning added to each matrix, and what could stand in for it."""
