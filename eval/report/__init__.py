"""The report: its HTML page, drawings of boxes and masks, and the comparison of several models."""
