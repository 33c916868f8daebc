"""One matrix and how its entries are arranged: dependence, unequal scales, singular values, and controls."""
