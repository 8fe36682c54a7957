"""Whether a planted model's truth is true: its parts taken away, forced and compared, by generation."""
