"""What executes a network inside a predictor: Paddle Inference, Paddle eager, or a scripted fake. Choosing one is choose.py's."""
