"""The chains' step timer and their report of stages."""
