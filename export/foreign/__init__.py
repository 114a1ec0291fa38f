"""Understands `.onnx` files of other tools and other years: each difference from today's standard is one small step, in a file of
its own, and each step is held against the file as it was given (reading.py). What is not understood is refused by name.

Never here: what depends on a size (those are rewrites), and running (runtime.py).
"""
