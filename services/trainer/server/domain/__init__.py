"""Trainings as plain data, free of any framework."""
