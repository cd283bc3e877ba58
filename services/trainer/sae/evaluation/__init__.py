"""What an autoencoder does on sequences that it was not trained on, in float64 and with every formula named."""
