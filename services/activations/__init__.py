"""Loads a language model, hooks it and streams its activations: what extractor and trainer share.

description = models.describe(folder)             # facts out of config.json; no weights are read
hooks.parse_hooks(names, description)              # refuses what the model does not have
model = models.load(folder, dtype="float32", device="cpu")
stream = activation_stream.ActivationStream(model, dataset, activation_stream.StreamSettings(hooks=names))
for piece in stream.pieces(first_row=0): ...       # piece.values[name]: one vector a token, in the rows' order
"""
