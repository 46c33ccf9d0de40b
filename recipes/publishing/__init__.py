"""Model cards, and the upload of a run to the Hub."""
