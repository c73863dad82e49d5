"""Studies: variants of a recipe, compared fairly over seeds."""
