"""What every step needs: errors, console, progress, files."""
