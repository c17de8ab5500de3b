"""Programs as other engines want them: ONNX, made once per model and kept. What runs them is `rayseg.predict.backends`'s."""
