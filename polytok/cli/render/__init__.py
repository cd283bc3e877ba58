"""What commands print: tables, progress, plots and JSON."""
