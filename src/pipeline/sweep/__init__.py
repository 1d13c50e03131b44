"""What this project does around a sweep: checks before it, confirmation after the search, the report at the end."""
