"""The built-in images: scenes of emoji with boxes, masks, captions and questions, made when they are asked for."""
