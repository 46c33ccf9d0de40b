"""One evaluation: what is measured, and the folder that comes out."""
