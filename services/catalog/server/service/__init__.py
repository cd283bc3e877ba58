"""The catalog's service layer: what an RPC does to records and jobs, in one transaction."""
