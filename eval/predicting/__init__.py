"""Predictions on images of a command line: which images, their answers, and what is printed and drawn."""
