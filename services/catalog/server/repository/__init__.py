"""All SQL over the catalog's own records, a module a table."""
