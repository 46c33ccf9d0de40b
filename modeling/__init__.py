"""The boxes of the papers' figures: configurations, models, processors, losses and the mask tokenizer."""
