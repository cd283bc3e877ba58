"""Generated from protos/polytok/extractor/v1."""
