"""Recipes: what suits a data set. The modules are imported one by one: some need no torch."""
