"""Recipes: configurations that run as they are."""
