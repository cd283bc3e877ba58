"""gRPC: server, channel, interceptors."""
