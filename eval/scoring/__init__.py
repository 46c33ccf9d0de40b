"""What several metrics share: forms of answers, tokens of captions, recall, the order of images."""
