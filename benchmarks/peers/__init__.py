"""How other programs train PaliGemma: one file for each, and the questions that all of them are asked."""
