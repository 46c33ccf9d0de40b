"""The web page of `openpali demo`: its controls, its examples, and its answers."""
