"""What the catalog knows and decides, free of any framework."""
