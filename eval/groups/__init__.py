"""Scores by group of examples: gaps between groups, and the toxicity of answers."""
