"""Texts without images, and their span corruption, for stage 0 of the text side."""
