"""The training library: from activations to exported autoencoders. Knows no records, jobs or gRPC."""
