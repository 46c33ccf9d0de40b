"""Prompts in the words of other models."""
