"""Infrastructure that every service uses. Knows no domain."""
