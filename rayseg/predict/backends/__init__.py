"""What executes a network: Paddle Inference, Paddle eager, or a scripted fake. Choosing one is choose.py's."""
