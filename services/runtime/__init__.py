"""The ground floor that every service stands on. Knows no domain."""
