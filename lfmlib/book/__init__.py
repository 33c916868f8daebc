"""The book's build: stage, execute, render; and what chapters are opened and closed with."""
