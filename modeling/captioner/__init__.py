"""Captioners (CapPa, LocCa): an image encoder that is trained by a text decoder on its tokens."""
