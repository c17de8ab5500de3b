"""Scores of a model on an annotated data set, by the path a job predicts on: prepare, run, finish, then the metrics.

    model.py         evaluate_model: a directory, a loaded predictor or a network in memory
    in_training.py   Evaluator: what the training loop calls on each of its workers
    network.py       a network in memory as a predictor
    source.py        a model as a value: directory, or weights of a network of the zoo
    scoring.py       results of single images -> partial scores that add up exactly -> Evaluation
    classes.py       a model's classes and those of the truth
    result.py        Evaluation: numbers, JSON, text

Scoring over a cluster, and scoring a finished job from its tables, is the pipeline's.
"""
