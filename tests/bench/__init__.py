"""The budgets of the product, measured on real parts, each beside its anchor in the same run: ``make bench``."""
