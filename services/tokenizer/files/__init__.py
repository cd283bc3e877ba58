"""What is written: Arrow files, what is staged between them, and what is counted of both."""
