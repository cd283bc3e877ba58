"""What every service that owns records shares: request ids, pages, watching, states, folders and garbage collection.

A service gives its tables (`columns`, `requests.table`, `jobs.tables`), its job handlers and its servicers;
`owner.Owner` wires them. Nothing here knows a domain.
"""
