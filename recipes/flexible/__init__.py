"""Images of any aspect ratio and patches of any size in stage 0: what a step draws, its batches, and the towers."""
