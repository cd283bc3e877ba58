"""The options of commands, and what is made of them."""
