"""The services of Polytok: each a process of its own, talking over gRPC and NATS alone."""
