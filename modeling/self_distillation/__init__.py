"""SigLIP 2's pretraining: SigLIP with a text decoder, and a teacher of its image encoder."""
