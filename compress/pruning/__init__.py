"""Decide what goes (plan), make it zero (apply), keep it zero (masks). Removing zeros is channels/strip.py's job."""
