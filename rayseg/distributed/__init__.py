"""One training run on many processes: Paddle's process group under Ray Train, and the trainer that starts it."""
