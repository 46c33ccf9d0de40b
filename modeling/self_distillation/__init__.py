"""SigLIP 2's pretraining: a SigLIP model, a text decoder on its image tokens, and a teacher for its image encoder."""
