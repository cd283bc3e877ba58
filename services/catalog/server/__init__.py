"""The catalog's server: records, their jobs and the gRPC services over them."""
