"""The report: its page, what it draws, and the comparison of several models."""
