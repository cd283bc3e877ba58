"""`polytok demo`: from real text to two tokenizations, extractions and trainings, on one machine, offline."""
