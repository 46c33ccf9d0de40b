"""Custom data: the layouts it may have, its rows, its classes and its splits."""
