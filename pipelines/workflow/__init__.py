"""The workflow as code, and what it compiles to."""
