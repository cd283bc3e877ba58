"""`polytok demo`: the main job from real text to two tokenizations, on one machine, with nothing downloaded."""
