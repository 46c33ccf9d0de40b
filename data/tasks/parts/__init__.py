"""What several tasks share: questions, captions and referring expressions of a record."""
