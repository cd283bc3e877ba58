"""The catalog's gRPC services. Requests come validated; errors of ours are mapped by the server's interceptor."""
